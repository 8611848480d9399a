"""The process around the work: errors, whole files, names that become paths, progress, provenance.

It knows nothing of pictures or retrieval. You may change how a file is written, how progress is
shown or what is said of the machine without knowing any other room.
"""
