"""Numbers in, text and pictures out: leaderboard, report, gallery, plots, CSV and LaTeX.

You may change how a page or table looks; no number is computed here. Charts of the report are
drawn as SVG by `charts.py` and not by matplotlib, so that their bytes hang on no version and their
colours follow the reader's theme. `publish.py` and `write.py` alone write files.
"""
