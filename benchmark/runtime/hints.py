"""What a person probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str]) -> str:
    """Name the closest of the known names, or all of them where none is close."""
    names = list(known)
    close = [one for one in difflib.get_close_matches(name, names, n=3, cutoff=0.5) if one != name]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
