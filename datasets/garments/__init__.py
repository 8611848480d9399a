"""Photographs of garments whose colour or kind is to be changed: fetched, never shipped."""
