"""Where a data set's parts lie under one data root, in the layouts that people have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cirbench.benchmark.api.task import Place
from cirbench.benchmark.runtime.errors import MissingData


def check_root(root: Path | None) -> None:
    """Look whether a data root that is given is there.

    Raises:
        MissingData: it is not.
    """
    if root is not None and not root.is_dir():
        raise MissingData(f"the data root {root} must be a folder that exists; check --data-root")


def locate(root: Path | None, task: str, places: Sequence[Place]) -> Mapping[str, Path | None]:
    """Name → path; None where an optional place is not there.

    Raises:
        MissingData: no data root, or a place that is needed is in none of its candidates; all
            such places are named at once.
    """
    if root is None:
        raise MissingData(f"task {task} needs its data; pass --data-root, or set CIRBENCH_DATA")
    check_root(root)
    found = {place.name: place.find(root) for place in places}
    missing = [p for p in places if found[p.name] is None and not p.optional]
    if missing:
        wanted = "; ".join(f"{p.name} ({' or '.join(p.candidates)})" for p in missing)
        raise MissingData(
            f"task {task} needs data that are missing under {root}: {wanted}; bench data where "
            f"{task} shows what is there"
        )
    return found
