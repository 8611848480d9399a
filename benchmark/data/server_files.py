"""What evaluation servers take, checked before it is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cirbench.benchmark.runtime.errors import CorruptData


def check_names(query: str, names: Sequence[str], allowed: Collection[str], count: int) -> None:
    """The names that answer one query.

    Args:
        query: what the server calls it, such as "pair 7".

    Raises:
        CorruptData: there are more or fewer than `count`, one twice, or one that is not allowed.
    """
    if len(names) != count or len(set(names)) != count or not set(names) <= set(allowed):
        raise CorruptData(f"{query}: an answer must have {count} distinct names, got {names}")
