"""What every stage needs: parameters, paths, provenance, signals."""
