"""Networks, one file each: encoders and decoders of a kind; `network` says what each has to give."""
