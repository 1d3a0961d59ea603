"""`dvc repro`, several stages at a time."""
