"""Helpers of the stage `report`: the results on disk, and their copy in MLflow."""
