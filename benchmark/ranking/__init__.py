"""Exact ranks, and ties by gallery order; it knows vectors only.

You may change how the ranks are found as long as `tests/ranking` holds every one of them.
"""
