"""Who made a record again, where, and what came of it: a file of lines beside the record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.runtime.provenance import Environment

IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A record made again.

    Attributes:
        by: who says so.
        arrays: sha256 of the per-query file that was made again.
        verdict: `IDENTICAL`, every per-query number; `WITHIN`, every metric within the tolerance;
            or `DIFFERENT`.
        largest: the largest difference of a metric, in points.
    """

    by: str
    environment: Environment
    record: str
    arrays: str
    verdict: str
    largest: float


_LINE = TypeAdapter(Rerun)


def path_of_reruns(record: Path) -> Path:
    """Where a record's reruns are kept."""
    return record.with_suffix(".reruns.jsonl")


def read_reruns(record: Path, arrays: str) -> list[Rerun]:
    """Read the reruns of a record as it is now; those of an earlier one of its name don't count.

    Args:
        arrays: sha256 of the record's per-query file.

    Raises:
        CorruptData: a line is none that `add_rerun` writes.
    """
    return [rerun for rerun in _read(path_of_reruns(record)) if rerun.record == arrays]


def add_rerun(record: Path, rerun: Rerun) -> None:
    """Add a line to a record's reruns, through a temporary name."""
    path = path_of_reruns(record)
    lines = [json.dumps(asdict(known), sort_keys=True) for known in [*_read(path), rerun]]
    with write_whole(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read(path: Path) -> Sequence[Rerun]:
    if not path.exists():
        return []
    try:
        return [_LINE.validate_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValidationError) as error:
        raise CorruptData(f"{path} must hold reruns, a line each ({error}); remove it") from error
