"""Two or three emoji on one canvas: COCO in kind, without a picture of its own."""
