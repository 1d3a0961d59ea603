"""Quantisers, one file each: what makes codes of vectors. `models/quantizer.py` says what each gives."""
