"""Helpers of the stage `train`: the folder of a training, and processes that share one training."""
