"""Variants: the models that entries name as `model`, one variant a file. `models/base.py` has the base class."""
