"""Likelihoods: the decoder's distribution over pixels, one a file. `models/likelihood.py` has the base class."""
