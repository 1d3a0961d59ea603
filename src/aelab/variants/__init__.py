"""Variants, one file each, which an entry of `params.yaml` names as its `model`; `base` says what each has to give."""
