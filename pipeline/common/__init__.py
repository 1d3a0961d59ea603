"""Code that every stage needs: parameters, paths, provenance, signals."""
