"""Tasks, one a file: a gallery, queries, and what counts as found."""
