"""Ways to compose a query, one paper a room or a file, and their training.

You may add a file and its line in the registry without knowing the others.
"""
