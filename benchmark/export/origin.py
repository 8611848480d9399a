"""What stands behind a record's numbers, for formats that have no field for it."""

from __future__ import annotations

from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.paths import to_line


def describe_origin(record: Record) -> str:
    """Say whether a record was measured, or made of what was computed elsewhere, and by whom."""
    if record.imported is None:
        return "measured by cirbench"
    return (
        f"imported {record.imported.kind} of {to_line(record.imported.producer) or 'nobody named'},"
        " scored by cirbench"
    )
