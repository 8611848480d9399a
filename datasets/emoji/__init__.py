"""Emoji in several drawing styles: the task, and the tiny CLIP, that run on a bare machine."""
