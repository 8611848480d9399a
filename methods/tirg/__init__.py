"""TIRG (Vo et al., CVPR 2019): a text gates a picture's features and adds a residual."""
