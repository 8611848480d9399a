"""Combiner (Baldrati et al., CVPR Workshops 2022): a network over both embeddings."""
