"""Foundations of all packages: errors, settings, registries, arrays and files on disk, devices and tensors."""
