"""Fault injection: kills, damaged files, full disks and hostile inputs, started with `python -m faults`."""
