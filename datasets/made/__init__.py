"""Made data in the official layouts, with pictures drawn of the embedded emoji."""
