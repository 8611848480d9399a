"""People in clothes in three drawing styles: Fashion-IQ in kind, on a bare machine."""
