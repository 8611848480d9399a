"""ARTEMIS (Delmas et al., ICLR 2022): a score that a query changes for each picture."""
