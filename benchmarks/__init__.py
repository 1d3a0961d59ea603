"""Measurements of speed and memory, which `make bench` runs."""
