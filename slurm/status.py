"""The status of every cell, from the sweep's folder and the queue; nothing has to keep running.

The queue is asked first and the files are read after it: a job writes its end before it leaves the
queue, so a job that is gone and has written none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cirbench.benchmark.records.record import Record, read_record
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.slurm.cells.manifest import (
    CANCELLED,
    DONE,
    FAILED,
    OOM,
    OPEN,
    PLANNED,
    QUEUED,
    RUNNING,
    SKIPPED,
    Manifest,
    State,
    Submission,
    SweepCell,
    explain_block,
    find_mixed,
)
from cirbench.slurm.queues import local
from cirbench.slurm.queues import squeue as queue
from cirbench.slurm.queues.squeue import QueuedJob

LOST = "lost: the job left the queue without reporting a result"


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """A cell, its state, and the state its folder held before the queue was asked."""

    cell: SweepCell
    state: State
    written: State = field(default_factory=State)
    record: Path | None = None

    @property
    def seconds(self) -> float | None:
        """How long it has run, or ran; None where nobody saw it end."""
        ended = time.time() if self.state.status == RUNNING else self.state.ended
        if self.state.started is None or ended is None:
            return None
        return max(0.0, ended - self.state.started)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "cell": self.cell.id,
            "kind": self.cell.kind,
            **asdict(self.state),
            "seconds": self.seconds,
            "record": str(self.record) if self.record else None,
        }


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """What the queues know of a sweep's submissions at one moment."""

    jobs: Mapping[str, QueuedJob]
    submissions: Mapping[str, Submission]
    alive: frozenset[str]
    """Submissions whose local queue still runs."""

    def find_job(self, state: State) -> str | None:
        """Find a cell's job: as the job has written, or by its submission, or by the job's name."""
        submission = self.submissions.get(state.submission or "")
        if state.job or submission is None:
            return state.job
        if submission.job is None:
            found = [job for job in self.jobs.values() if job.name.endswith(f"-{submission.id}")]
            masters = {job.id.split("_")[0] for job in found}
            if len(masters) == 1:
                submission = replace(submission, job=masters.pop())
        return submission.find_job(state.place)


def refresh_status(manifest: Manifest) -> list[CellStatus]:
    """Find every cell's status, in the plan's order, and write down ends that the folder lacks.

    Raises:
        MissingData: no such sweep.
        CorruptData: what was planned can't be read any more.
        CheckFailed: cells are with Slurm, and it does not answer.
    """
    rows = find_status(manifest, manifest.read_cells())
    for row in rows:
        if row.state != row.written and row.state.status not in (PLANNED, *OPEN):
            _write_end(manifest, row)
    return rows


def has_ended(rows: Sequence[CellStatus]) -> bool:
    """Whether no cell waits or runs any more."""
    return not any(row.state.status in OPEN for row in rows)


def _write_end(manifest: Manifest, row: CellStatus) -> None:
    """Write an end down, since Slurm forgets it, unless the job itself has written meanwhile."""
    if manifest.read_state(row.cell.id) == row.written:
        manifest.write_state(row.cell.id, row.state)


def find_status(manifest: Manifest, cells: Sequence[SweepCell]) -> list[CellStatus]:
    """Find the status of some cells, writing nothing."""
    answers = ask_queues(manifest, [manifest.read_state(cell.id) for cell in cells])
    records, damaged = validate_records(manifest)
    rows: dict[str, CellStatus] = {}
    states = {cell.id: manifest.read_state(cell.id) for cell in cells}
    mixed = find_mixed(cells, states)
    for cell in cells:
        written = states[cell.id]
        record = records.find(cell.expected) if cell.expected else None
        state = resolve_state(manifest, cell, written, answers, rows, record is not None)
        if cell.id in mixed:
            state = replace(state, status=FAILED, reason=mixed[cell.id])
        if written.status == DONE and state.status == FAILED and damaged:
            state = replace(state, reason="; ".join([state.reason, *damaged]))
        rows[cell.id] = CellStatus(cell=cell, state=state, written=written, record=record)
    return list(rows.values())


def ask_queues(manifest: Manifest, states: Sequence[State]) -> QueueSnapshot:
    """Ask the queues that cells are with, and no others."""
    submissions = manifest.read_submissions()
    waiting = [state for state in states if state.status in OPEN]
    open_ones = [submissions[s.submission] for s in waiting if s.submission in submissions]
    jobs: dict[str, QueuedJob] = {}
    if any(submission.cluster == "slurm" for submission in open_ones):
        jobs = queue.list_jobs()
    alive = frozenset(s.id for s in open_ones if s.cluster == "local" and local.is_alive(s))
    found = QueueSnapshot(jobs=jobs, submissions=submissions, alive=alive)
    lost = {
        job
        for state in waiting
        if _find_cluster(found, state) == "slurm"
        and (job := found.find_job(state))
        and job not in jobs
    }
    return QueueSnapshot(
        jobs={**jobs, **queue.read_accounts(lost)}, submissions=submissions, alive=alive
    )


def resolve_state(
    manifest: Manifest,
    cell: SweepCell,
    state: State,
    answers: QueueSnapshot,
    rows: Mapping[str, CellStatus],
    recorded: bool,
) -> State:
    """Resolve a cell's state from its folder, its record and the queue.

    Args:
        rows: of the cells before it, those it needs among them.
    """
    if recorded or (state.status == DONE and not cell.expected and _is_made(cell)):
        return replace(state, status=DONE, reason="", log=())
    if state.status == DONE:
        return replace(state, status=FAILED, reason="its result is missing or invalid")
    if state.status not in OPEN:
        return state
    statuses = {id_: rows[id_].state.status for id_ in cell.needs if id_ in rows}
    if state.status == QUEUED and (reason := explain_block(cell, statuses)):
        return replace(state, status=SKIPPED, reason=reason)
    state = _resolve_by_queue(manifest, state, answers)
    if state.status == QUEUED and (reason := _explain_wait(cell, rows)):
        return replace(state, reason=reason)
    return state


def _explain_wait(cell: SweepCell, rows: Mapping[str, CellStatus]) -> str:
    """Name what a cell waits for, and where that runs: it may be what never ends."""
    waited = [rows[id_] for id_ in cell.needs if id_ in rows and rows[id_].state.status in OPEN]
    if not waited:
        return ""
    first = min(waited, key=lambda row: row.state.status != RUNNING)
    where = f" on {first.state.node}" if first.state.node else ""
    more = f" and {len(waited) - 1} more" if len(waited) > 1 else ""
    return f"waits for {first.cell.id}, {first.state.status}{where}{more}"


def _is_made(cell: SweepCell) -> bool:
    """Tell whether a training's weights exist; what an embedding made need not."""
    return cell.kind != "train" or Path(cell.request["output"]).is_file()


def _resolve_by_queue(manifest: Manifest, state: State, answers: QueueSnapshot) -> State:
    if _find_cluster(answers, state) != "slurm":
        alive = state.submission is None or state.submission in answers.alive
        return state if alive else _end(manifest, state, FAILED, LOST)
    job = answers.find_job(state)
    if job is None:
        return replace(state, status=PLANNED, reason="its submission was interrupted")
    known = answers.jobs.get(job)
    state = replace(state, job=job)
    if known is None:
        return _end(manifest, state, FAILED, LOST)
    if known.status in OPEN:
        return replace(
            state, status=known.status, reason=known.reason or state.reason, node=known.node
        )
    reason = known.reason if known.status != FAILED or known.reason else LOST
    return _end(manifest, state, known.status, reason)


def _end(manifest: Manifest, state: State, status: str, reason: str) -> State:
    log = manifest.read_log_tail(state.job) if state.job and status != CANCELLED else ()
    if status == FAILED and queue.tells_of_oom(log):
        status = OOM
    if status == FAILED and not manifest.logs.is_dir():
        reason = f"{reason}; its logs folder is missing"
    return replace(state, status=status, reason=reason, log=log)


def _find_cluster(answers: QueueSnapshot, state: State) -> str:
    submission = answers.submissions.get(state.submission or "")
    return submission.cluster if submission else "none"


class RecordIndex:
    """The whole records of a sweep, found by some of the fields of their cells.

    A record is also found by `checkpoint_file`, the name of its file of weights: what the sweep
    itself trains has no sha256 yet when the sweep is planned.
    """

    def __init__(self) -> None:
        self._records: list[tuple[Mapping[str, Any], Path]] = []
        self._tables: dict[tuple[str, ...], dict[tuple[Any, ...], Path]] = {}

    def add(self, record: Record) -> None:
        """Add a record; of two that have the fields wanted, the later one is found."""
        file = record.checkpoint.name if record.checkpoint else None
        self._records.append(({**asdict(record.cell), "checkpoint_file": file}, record.path))
        self._tables.clear()

    def find(self, wanted: Mapping[str, Any]) -> Path | None:
        """Find the record of a cell by what is expected of it; None where there is none."""
        names = tuple(wanted)
        if names not in self._tables:  # a sweep's cells expect the same few fields
            self._tables[names] = {
                tuple(fields.get(name) for name in names): path for fields, path in self._records
            }
        return self._tables[names].get(tuple(wanted.values()))


def validate_records(manifest: Manifest) -> tuple[RecordIndex, list[str]]:
    """Read the sweep's whole records, and what is wrong with the others."""
    limited = manifest.read_plan().limited
    root = manifest.records.with_name("records-partial") if limited else manifest.records
    found = RecordIndex()
    damaged: list[str] = []
    for path in sorted(root.glob("*/[!.]*.json")):
        try:
            record = read_record(path)
            if not (path.parent / record.per_query.file).is_file():
                raise CorruptData(f"{path} has lost its per-query data")
        except CorruptData as error:
            damaged.append(str(error))
            continue
        found.add(record)
    return found, damaged
