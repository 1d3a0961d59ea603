"""Models: base classes, layers, statistics and checkpoints."""
