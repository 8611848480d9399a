"""A sweep's records into a results folder, each checked whole before it is copied."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cirbench.benchmark.records.record import check_writable, read_record
from cirbench.benchmark.runtime.files import write_whole
from cirbench.slurm.cells.manifest import Manifest
from cirbench.slurm.status import CellStatus


def collect(manifest: Manifest, rows: Sequence[CellStatus], output: Path) -> list[Path]:
    """Copy every done cell's record, its per-query data and its submission; give the records.

    Partial records go to `{output}-partial`, as those of `bench run --limit` do.

    Raises:
        UsageError: the results folder can't be written.
        CorruptData: a record's per-query data is not what the record was written with.
    """
    if manifest.read_plan().limited:
        output = output.with_name(f"{output.name}-partial")
    check_writable(output)
    return [_copy(row.record, output) for row in rows if row.record is not None]


def _copy(source: Path, output: Path) -> Path:
    record = read_record(source)
    record.read_per_query()
    target = output / source.parent.name / source.name
    beside = [record.per_query.file, *record.submission]
    for name in [*beside, source.name]:  # the record last: where it is, it is whole
        with write_whole(target.parent / name) as temporary:
            shutil.copyfile(source.parent / name, temporary)
    return target
