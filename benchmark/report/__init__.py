"""The report: a static page, a gallery a task, and every table as CSV and LaTeX.

Records in, text out; `files.py` alone reads and writes. Charts are drawn as SVG here and not by
matplotlib, so that their bytes hang on no version and their colours follow the reader's theme.
"""
