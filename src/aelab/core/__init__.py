"""What everything stands on: errors, settings, the registry, arrays and files on disk, devices, tensors."""
