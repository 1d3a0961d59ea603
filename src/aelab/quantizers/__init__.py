"""Quantisers, one file each: what makes codes of vectors. `quantizer` says what each has to give."""
