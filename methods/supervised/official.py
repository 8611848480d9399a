"""From the names that authors gave to weights to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def rename(
    state: Mapping[str, T], names: Mapping[str, str], unused: Sequence[str] = ()
) -> dict[str, T]:
    """Replace whole names, and beginnings of names that end in a dot; the longest that fits.

    Args:
        names: theirs → ours.
        unused: theirs that are left out, even where a shorter beginning would fit.

    Raises:
        ValueError: a name is not known.
    """
    known = (*names, *unused)
    found = {}
    for name, value in state.items():
        fitting = [k for k in known if name == k or (k.endswith(".") and name.startswith(k))]
        if not fitting:
            raise ValueError(f"{name} must be, or begin with, one of {', '.join(sorted(names))}")
        longest = max(fitting, key=len)
        if longest not in unused:
            found[names[longest] + name.removeprefix(longest)] = value
    return found
