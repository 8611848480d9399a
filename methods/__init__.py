"""Composed-image-retrieval methods, one paper a file."""
