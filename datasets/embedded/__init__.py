"""What the embedded tasks share: packs of pictures, and how these are drawn from pinned sources."""
