"""What a file is of must be the task's, query for query and picture for picture."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.paths import to_line

_NAMED = 10


def check_ids(given: Collection[str], wanted: Collection[str], origin: str, hint: str = "") -> None:
    """Hold ids of a file to a task's.

    Args:
        origin: the file and what of it, for the error.
        hint: a sentence that follows.

    Raises:
        CorruptData: they are not the same; gives both counts, and the first ten on either side.
    """
    known, there = set(wanted), set(given)
    lacking = [name for name in wanted if name not in there]
    foreign = [name for name in given if name not in known]
    if lacking or foreign:
        said = [
            describe_ids(what, names)
            for what, names in (("missing", lacking), ("not the task's", foreign))
            if names
        ]
        raise CorruptData(
            f"{origin}: the ids must be the task's {len(known):,}, got {len(there):,}, "
            f"{'; '.join(said)}{hint}"
        )


def describe_ids(what: str, names: Collection[str]) -> str:
    """How many ids are so, and the first ten."""
    more = " …" if len(names) > _NAMED else ""
    return f"{len(names):,} {what} ({', '.join(map(to_line, islice(names, _NAMED)))}{more})"
