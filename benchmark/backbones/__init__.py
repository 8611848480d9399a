"""CLIP-like backbones behind the `Backbone` seam, one library a file.

You may add a library in a file of its own; what makes its vectors is part of their key.
"""
