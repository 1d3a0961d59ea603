"""What stands beside the stage `report`: the results on disk, and their projection to MLflow."""
