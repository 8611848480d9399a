"""Records: their fields, and one JSON file a cell with its per-query data beside it.

You may change how a record is read; what is written is what others have on disk.
"""
