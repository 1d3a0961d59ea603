"""Quantisers, which map vectors to codes, one a file. `models/quantizer.py` has the base class."""
