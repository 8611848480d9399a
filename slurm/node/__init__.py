"""What runs on a node: one cell, or one training."""
