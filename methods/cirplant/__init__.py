"""CIRPLANT (Liu et al., ICCV 2021): BERT reads a caption, then a picture as its last word."""
