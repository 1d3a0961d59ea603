"""Priors: the distribution over the codes of a VAE, one prior a file. `models/prior.py` has the base class."""
