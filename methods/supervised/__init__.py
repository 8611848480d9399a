"""What the supervised networks with towers of their own share: trunks, words, losses."""
