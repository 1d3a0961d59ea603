"""The runner: `dvc repro` with several stages at a time."""
