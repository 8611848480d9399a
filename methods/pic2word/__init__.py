"""Pic2Word (Saito et al., CVPR 2023): a picture becomes one pseudo-word of a prompt."""
