"""Composed image retrieval, measured one way."""
