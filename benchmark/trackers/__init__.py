"""Hooks that hear a training's numbers as they come, one tracker a file.

You may add a tracker in a file of its own and its line in `hook.TRACKERS`; nothing here may send
anything off the machine unless a person's own settings ask for it.
"""
