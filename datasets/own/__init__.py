"""A task from files that a person has: pictures, a table of queries, and a few lines of TOML."""
