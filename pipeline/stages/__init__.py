"""The stages of `dvc.yaml`: one script each, which reads from top to bottom."""
