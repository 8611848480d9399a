"""The harness, in rooms: one way from a method and a task to a record."""
