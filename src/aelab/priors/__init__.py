"""Priors, one file each: the distribution over the codes of a VAE. `prior` says what each has to give."""
