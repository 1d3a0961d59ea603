"""What a model is, and what it is made of: base classes, layers, statistics, checkpoints."""
