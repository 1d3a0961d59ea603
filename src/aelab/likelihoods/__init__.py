"""Likelihoods, one file each: the decoder's distribution over pixels. `likelihood` says what each has to give."""
