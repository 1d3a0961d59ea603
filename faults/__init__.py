"""What a user's machine may do to a run, done on purpose: `python -m faults`."""
