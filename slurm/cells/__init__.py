"""What is known of each cell of a sweep: one JSON file a cell, the only truth."""
