"""Priors, one file each: the distribution over the codes of a VAE. `models/prior.py` says what each gives."""
