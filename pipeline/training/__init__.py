"""What stands beside the stage `train`: the folder of a training, and processes that share one."""
