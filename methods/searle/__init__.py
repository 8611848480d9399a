"""SEARLE (Baldrati et al., ICCV 2023): a pseudo-word, and "that" before the caption."""
