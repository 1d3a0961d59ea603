"""How images come in: downloads with their mirrors and parsers, folders of image files."""
