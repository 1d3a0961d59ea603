"""Networks: encoders and decoders, one network a file. `models/network.py` has the base class."""
