"""Likelihoods, one file each: the decoder's distribution over pixels. `models/likelihood.py` says what each gives."""
