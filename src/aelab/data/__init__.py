"""Data sets as arrays on disk, their corruption, and the pairs of images that a model learns from."""
