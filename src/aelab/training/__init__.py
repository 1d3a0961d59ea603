"""The training of every variant and every phase: `loop` reads from top to bottom, the rest is what it is made of."""
