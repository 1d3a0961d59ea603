"""Use of trained models: on files, folders and pipes, and in other programs."""
