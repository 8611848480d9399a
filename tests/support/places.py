"""Folders that tests read from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
RESULTS = ROOT / "results"
SHARED = ROOT.parent / "shared"
"""Reference data, where they are; no test needs them."""
