"""Training of every variant and every phase. Begin with `loop`; the other modules are its parts."""
