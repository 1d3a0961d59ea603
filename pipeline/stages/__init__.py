"""The stages of `dvc.yaml`: one script for each, to be read from top to bottom."""
