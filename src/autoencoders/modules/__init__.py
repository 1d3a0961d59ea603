"""The parts that variants are made of."""
