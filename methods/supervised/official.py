"""From the names that authors gave to weights to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def rename(
    state: Mapping[str, Tensor], names: Mapping[str, str], unused: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Replace the beginnings of names, by the longest that fits.

    Args:
        names: theirs → ours.
        unused: beginnings of names that are left out, even where a shorter one would fit.

    Raises:
        ValueError: a name has a beginning that is not known.
    """
    known = {**names, **dict.fromkeys(unused, "")}
    found = {}
    for name, tensor in state.items():
        fitting = [beginning for beginning in known if name.startswith(beginning)]
        if not fitting:
            raise ValueError(f"{name} must begin with one of {', '.join(sorted(names))}")
        longest = max(fitting, key=len)
        if longest not in unused:
            found[names[longest] + name.removeprefix(longest)] = tensor
    return found
