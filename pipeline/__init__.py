"""The stages of `dvc.yaml`: paths and parameters here, mathematics in `autoencoders`."""
