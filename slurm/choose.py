"""Choosing the cells to submit: the missing ones, or those to retry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cirbench.benchmark.evaluation.plan import Request
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.slurm.cells.manifest import (
    CLUSTERS,
    DONE,
    ENDED_BADLY,
    FAILED,
    OOM,
    OPEN,
    PLANNED,
    SKIPPED,
    TIMEOUT,
    Manifest,
    SweepCell,
)
from cirbench.slurm.status import CellStatus
from cirbench.slurm.sweep.resources import DEFAULTS

RETRIED = (FAILED, TIMEOUT, OOM)
"""What `retry` takes where no state is named; what a person cancelled waits for them."""


def choose_missing(rows: Sequence[CellStatus]) -> list[SweepCell]:
    """Choose cells that are neither done nor queued; embeddings only for cells that need them."""
    absent = [row.cell for row in rows if row.state.status not in (DONE, *OPEN)]
    wanted = [cell for cell in absent if cell.kind == "run"]
    return _add_needed(wanted, absent)


def choose_to_retry(rows: Sequence[CellStatus], statuses: Iterable[str]) -> list[SweepCell]:
    """Choose cells that ended in one of the states, what they need, and what they had blocked."""
    chosen = set(statuses)
    ended = {row.cell.id for row in rows if row.state.status in chosen}
    again = [
        row.cell
        for row in rows
        if row.cell.id in ended or (row.state.status == SKIPPED and ended & set(row.cell.needs))
    ]
    absent = [row.cell for row in rows if row.state.status in (PLANNED, *ENDED_BADLY)]
    return _add_needed(again, absent)


def _add_needed(wanted: Sequence[SweepCell], absent: Sequence[SweepCell]) -> list[SweepCell]:
    needed = {id_ for cell in wanted for id_ in cell.needs}
    chosen = needed | {cell.id for cell in wanted}
    return [cell for cell in absent if cell.id in chosen]


def adjust_cell(cell: SweepCell, on_oom: str) -> SweepCell:
    """Give a cell half the batch, or twice the memory.

    Raises:
        UsageError: the batch can't be halved: it is one already, or a training's.
    """
    if on_oom == "double-memory":
        memory = {"mem_gb": 2 * cell.resources.get("mem_gb", DEFAULTS["mem_gb"])}
        return replace(cell, resources={**cell.resources, **memory})
    if cell.kind == "train":
        raise UsageError(
            f'{cell.id}: half the batch would make another training; set on_oom = "double-memory" '
            "in the profile, or batch_size in [[train]]"
        )
    size = cell.request.get("batch_size", Request.batch_size)
    if size == 1:
        raise UsageError(
            f"{cell.id}: the batch size is already 1; raise mem_gb, and submit the sweep again"
        )
    return replace(cell, request={**cell.request, "batch_size": size // 2})


def adjust_after_oom(
    manifest: Manifest, rows: Sequence[CellStatus], cells: Sequence[SweepCell]
) -> tuple[list[SweepCell], list[str]]:
    """Adjust the cells that ran out of memory, and write them down.

    Args:
        cells: what others need comes first.

    Returns:
        The cells to submit, and why others are left out: each that can't be adjusted, and with it
        those that need it.
    """
    short = {row.cell.id for row in rows if row.state.status == OOM}
    on_oom = manifest.read_plan().on_oom
    eased: list[SweepCell] = []
    refusals: list[str] = []
    left_out: set[str] = set()
    for cell in cells:
        if left_out & set(cell.needs):
            left_out.add(cell.id)
            continue
        if cell.id in short:
            try:
                cell = adjust_cell(cell, on_oom)
            except UsageError as error:
                refusals.append(str(error))
                left_out.add(cell.id)
                continue
            manifest.write_cell(cell)
        eased.append(cell)
    return eased, refusals


def find_last_cluster(manifest: Manifest, rows: Sequence[CellStatus]) -> str:
    """Find the cluster that the sweep's cells went to before."""
    submissions = manifest.read_submissions()
    used = [submissions[s].cluster for row in rows if (s := row.state.submission) in submissions]
    return used[-1] if used else CLUSTERS[0]
