"""Vectors of pictures and texts, computed once and kept in a store that can be trusted.

You may change how the store is laid out and cleaned without knowing who asks for vectors.
"""
