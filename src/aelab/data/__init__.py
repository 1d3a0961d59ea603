"""Data sets as arrays on disk: what there is, how it is corrupted, what a model sees of it."""
