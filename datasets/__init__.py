"""Tasks, one data set a room or a file: a gallery, queries, and what counts as found.

You may add a file and its line in the registry without knowing the others.
"""
