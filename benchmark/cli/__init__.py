"""Options in, text out; the rest is imported only when a command runs.

You may change words, options and tables; no number is computed here.
"""
