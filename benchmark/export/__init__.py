"""Records in the formats of others, one format a file, for their tools to read.

You may add a format as a file here and a command in `cli/export.py`. No number is computed here,
and no picture or caption leaves it that a task's licence does not let pass.
"""
