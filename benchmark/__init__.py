"""The harness: one way from a method and a task to a record."""
