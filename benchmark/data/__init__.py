"""What a task needs to find, fetch, read and check its files.

You may change downloads, layouts and checks without knowing what a task makes of the files.
"""
