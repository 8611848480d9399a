"""What `bench sweep submit` does before any job: the file becomes a plan, the plan a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.provenance import read_code_state
from cirbench.slurm.cells.manifest import OPEN, Manifest, State, SweepCell, SweepPlan, open_manifest
from cirbench.slurm.choose import choose_missing
from cirbench.slurm.queues.snapshot import choose_code
from cirbench.slurm.status import CellStatus, find_status, refresh_status
from cirbench.slurm.submit import group_into_arrays, write_sbatch_script
from cirbench.slurm.sweep.expand import Expansion
from cirbench.slurm.sweep.resources import read_profile
from cirbench.slurm.sweep.sweep_file import expand_path, read_sweep


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """A sweep file without mistakes: its folder, plan and cells."""

    manifest: Manifest
    plan: SweepPlan
    cells: tuple[SweepCell, ...]


def plan_sweep(
    file: str, *, profile: str | None, sweeps: Path, data_root: Path | None, fail_fast: bool
) -> PlannedSweep:
    """Read and check a sweep file; write nothing.

    Raises:
        MissingData: there is no such file.
        UsageError: every mistake in it.
    """
    sweep, errors = read_sweep(file)
    cluster = read_profile(profile)
    manifest = open_manifest(sweep.name, sweeps)
    root = sweep.settings.get("data_root") or (expand_path(str(data_root)) if data_root else None)
    cells = Expansion(sweep, cluster, manifest, root, errors).cells()
    plan = SweepPlan(
        name=sweep.name,
        cells=tuple(cell.id for cell in cells),
        on_oom=cluster.on_oom,
        limited="limit" in sweep.settings,
        fail_fast=fail_fast,
        **read_code_state(),
    )
    return PlannedSweep(manifest=manifest, plan=plan, cells=tuple(cells))


def prepare(planned: PlannedSweep, reporter: Reporter) -> list[CellStatus]:
    """Write the folder, or check it against the plan; give the rows as they stand.

    The caller holds the manifest's lock. Cells that are on their way stay as they were sent; for
    the others the file holds, also over the batch and memory that a retry had changed.

    Raises:
        UsageError: the folder is of another plan, or can't be written.
    """
    manifest = planned.manifest
    if (manifest.folder / "sweep.json").exists():
        _check_same_plan(planned)
        _say_new_code(planned, reporter)
    for cell in planned.cells:
        if (
            manifest.read_state(cell.id).status not in OPEN
            or not manifest.cell_path(cell.id).exists()
        ):
            manifest.write_cell(cell)
    manifest.write_plan(planned.plan)
    return refresh_status(manifest)


def _say_new_code(planned: PlannedSweep, reporter: Reporter) -> None:
    """Say where the code has changed since the sweep was submitted: records may differ."""
    try:
        before = planned.manifest.read_plan()
    except CorruptData:
        return
    if (before.commit, before.dirty) != (planned.plan.commit, planned.plan.dirty):
        reporter.say(
            f"the code has changed since this sweep was submitted ({(before.commit or '?')[:8]}, "
            f"now {(planned.plan.commit or '?')[:8]}): what is done stays, the rest runs the new "
            "code"
        )


def _check_same_plan(planned: PlannedSweep) -> None:
    """Check that the folder is of this sweep; a damaged sweep.json is written anew."""
    try:
        before = set(planned.manifest.read_plan().cells)
    except CorruptData:
        return
    now = set(planned.plan.cells)
    if before != now:
        gone, new = sorted(before - now), sorted(now - before)
        raise UsageError(
            f"{planned.manifest.folder} belongs to another sweep of this name: {len(gone)} of its "
            f"cells are not in this file ({', '.join(gone[:2]) or 'none'}), {len(new)} are new "
            f'({", ".join(new[:2]) or "none"}); give the file another name = "..."'
        )


def preview(planned: PlannedSweep, *, snapshot: bool) -> dict[str, Any]:
    """Cells, their states, what they wait for, and the sbatch scripts; nothing is written."""
    manifest = planned.manifest
    there = (manifest.folder / "sweep.json").exists()
    if there:
        _check_same_plan(planned)
    rows = (
        find_status(manifest, planned.cells)
        if there
        else [CellStatus(cell=cell, state=State()) for cell in planned.cells]
    )
    cells = choose_missing(rows)
    code = choose_code(manifest, snapshot=snapshot)
    return {
        "cells": [
            {"cell": row.cell.id, "state": row.state.status, "needs": list(row.cell.needs)}
            for row in rows
        ],
        "to submit": len(cells),
        "scripts": [
            write_sbatch_script(
                manifest, array, "ID", code, [f"JOB-OF-{need}" for need in array.needs]
            )
            for array in group_into_arrays(cells)
        ],
    }
