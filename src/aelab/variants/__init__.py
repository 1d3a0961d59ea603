"""Variants, one file each, which an entry names as its `model`; `models/base.py` says what each gives."""
