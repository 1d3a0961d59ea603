"""Autoencoders: the models, their training and their evaluation. Knows no path and no parameter file."""
