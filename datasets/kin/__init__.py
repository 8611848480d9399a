"""People at work and play, drawn by four hands: CIRR in kind, on a bare machine."""
