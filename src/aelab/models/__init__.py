"""What a model is, and what it is made of: protocols, layers, statistics, checkpoints."""
