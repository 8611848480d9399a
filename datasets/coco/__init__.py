"""Object composition on COCO: the object cut out of a photo, and what is around it."""
