"""LinCIR (Gu et al., CVPR 2024): SEARLE's network, trained on text alone."""
