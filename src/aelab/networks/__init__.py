"""Networks, one file each: encoders and decoders of a kind; `models/network.py` says what each gives."""
