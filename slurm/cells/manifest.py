"""A sweep's folder, the only truth about it: small JSON files, each replaced whole.

    SWEEPS/NAME/
      sweep.json             what was planned, and from which code
      cells/CELL.json        what one cell is; enough to run it by hand
      states/CELL.json       where it stands; the submitter writes it first, then the cell's own job
      submissions/ID.json    which cells went to the queue together, and as which job
      records/  checkpoints/ what cells make
      logs/  snapshots/      what jobs print, and the code they run

Every file has one writer at a time, so that no lock is held while work is done. Two submissions of
one sweep do exclude each other (`Manifest.lock`), through a lock that ends with its process.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import write_whole

PLANNED, QUEUED, RUNNING, DONE = "planned", "queued", "running", "done"
FAILED, TIMEOUT, OOM, CANCELLED, SKIPPED = "failed", "timeout", "oom", "cancelled", "skipped"
STATES = (PLANNED, QUEUED, RUNNING, DONE, FAILED, TIMEOUT, OOM, CANCELLED, SKIPPED)
OPEN = (QUEUED, RUNNING)
ENDED_BADLY = (FAILED, TIMEOUT, OOM, CANCELLED, SKIPPED)

CLUSTERS = ("slurm", "local", "debug")
LOG_LINES = 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SweepCell:
    """One job's worth of work.

    Attributes:
        kind: "run" (one method's record), "embed" (the pictures, for several runs) or "train".
        request: the fields of a `plan.Request`, or of a training, as JSON has them.
        expected: fields that the record's cell must have; empty where no record is made.
        needs: cells that must be done first.
        resources: in submitit's names.
    """

    id: str
    kind: str
    request: Mapping[str, Any]
    expected: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What may not change under one id; `retry --oom` may change batch size and resources."""
        request = {k: v for k, v in self.request.items() if k not in ("batch_size", "workers")}
        return {"kind": self.kind, "request": request, "needs": list(self.needs)}

    @property
    def embedding(self) -> str | None:
        """What the shards of one embedding have in common; None for what is none."""
        if "shard" not in self.request:
            return None
        changing = ("shard", "batch_size", "workers")
        return json.dumps([v for k, v in sorted(self.request.items()) if k not in changing])


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a cell.

    Attributes:
        submission, place: which submission it went with, and as which number of it.
        started, ended: seconds since 1970 by the clock of the node, which is never compared with
            another's.
        attempts: how often it has begun.
        spaces: keys of the stored spaces that an embedding's rows are in.
        losses: how often its job began again without a word from the attempt before, as when a
            node is lost.
        log: the last lines, where it ended badly.
    """

    status: str = PLANNED
    reason: str = ""
    submission: str | None = None
    place: int = 0
    job: str | None = None
    node: str | None = None
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    losses: int = 0
    spaces: tuple[str, ...] = ()
    log: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Cells that went to a queue together.

    Attributes:
        job: the array's job id; None until `sbatch` has answered, and on other clusters.
        process: host, process id and start of the local queue, on `local`.
    """

    id: str
    cluster: str
    cells: tuple[str, ...]
    job: str | None = None
    process: Mapping[str, Any] | None = None

    def find_job(self, place: int) -> str | None:
        """The job id of one cell."""
        if self.job is None or len(self.cells) == 1:
            return self.job
        return f"{self.job}_{place}"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What `sweep.json` holds.

    Attributes:
        cells: ids in the plan's order.
        profile: how retry answers an out-of-memory: "halve-batch" or "double-memory".
        limited: whether the records are partial.
        commit, dirty: the code that was last submitted, as records have it.
    """

    name: str
    cells: tuple[str, ...]
    on_oom: str = "halve-batch"
    limited: bool = False
    fail_fast: bool = False
    commit: str | None = None
    dirty: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The folder of one sweep."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def records(self) -> Path:
        """Where its cells write; `bench sweep collect` copies from here."""
        return self.folder / "records"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def stop_sign(self) -> Path:
        """Hold the id of the cell whose failure stops the rest, with --fail-fast."""
        return self.folder / "stopped-by"

    def cell_path(self, cell: str) -> Path:
        return self.folder / "cells" / f"{cell}.json"

    def read_plan(self) -> SweepPlan:
        """Read the plan; raises MissingData if there is no such sweep, CorruptData if damaged."""
        path = self.folder / "sweep.json"
        if not path.is_file():
            known = ", ".join(sorted(p.parent.name for p in path.parents[1].glob("*/sweep.json")))
            raise MissingData(
                f"there is no sweep {self.name!r} in {self.folder.parent} (there: "
                f"{known or 'none'}); submit one with bench sweep submit, or pass another "
                "--sweeps-dir"
            )
        return _read(path, SweepPlan, "submit the sweep file again; what is done stays done")

    def read_cell(self, cell: str) -> SweepCell:
        """Read a cell; raises CorruptData if its file is missing, damaged, or another cell's."""
        path = self.cell_path(cell)
        mend = "submit the sweep file again to write it anew"
        found = _read(path, SweepCell, mend)
        if found.id != cell:
            raise CorruptData(f"{path} describes the cell {found.id!r}; {mend}")
        return found

    def read_cells(self) -> list[SweepCell]:
        """Read all cells, in the plan's order."""
        return [self.read_cell(cell) for cell in self.read_plan().cells]

    def read_state(self, cell: str) -> State:
        """Read a cell's state; a damaged file is a failure that retry mends."""
        path = self.folder / "states" / f"{cell}.json"
        if not path.exists():
            return State()
        try:
            state = _read(path, State, "bench sweep retry --failed runs the cell again")
        except CorruptData as error:
            return State(status=FAILED, reason=str(error))
        if state.status not in STATES:
            return State(status=FAILED, reason=f"{path}: unknown state {state.status!r}")
        return state

    def write_plan(self, plan: SweepPlan) -> None:
        _write(self.folder / "sweep.json", plan)

    def write_cell(self, cell: SweepCell) -> None:
        _write(self.cell_path(cell.id), cell)

    def write_state(self, cell: str, state: State) -> None:
        _write(self.folder / "states" / f"{cell}.json", state)

    def write_submission(self, submission: Submission) -> None:
        _write(self.folder / "submissions" / f"{submission.id}.json", submission)

    def read_submissions(self) -> dict[str, Submission]:
        """Read submissions by id; a damaged one counts as lost, as do its cells not yet begun."""
        found = {}
        for path in sorted((self.folder / "submissions").glob("[!.]*.json")):
            try:
                found[path.stem] = _read(path, Submission, "")
            except CorruptData:
                continue
        return found

    def queue_together(self, submission: Submission, cells: Sequence[SweepCell]) -> None:
        """Write down which cells will be submitted, before the queue is asked."""
        self.write_submission(submission)
        for place, cell in enumerate(cells):
            attempts = self.read_state(cell.id).attempts
            queued = State(status=QUEUED, submission=submission.id, place=place, attempts=attempts)
            self.write_state(cell.id, queued)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude other submitters, who wait; the system frees the lock with its process."""
        with _explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("w", encoding="utf-8")
        with file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def read_log_tail(self, job: str) -> tuple[str, ...]:
        """The last lines of what a job printed; none where there is no log any more."""
        try:
            text = self.log_path(job).read_text(errors="replace", encoding="utf-8")
        except OSError:
            return ()
        return tuple(text.splitlines()[-LOG_LINES:])

    def log_path(self, job: str) -> Path:
        """As submitit names it."""
        return self.logs / f"{job}_0_log.out"


def open_manifest(name: str, sweeps: Path) -> Manifest:
    """Open the folder of a sweep by name.

    Raises:
        UsageError: no folder can have that name.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"a sweep's name must be of letters, digits, . - and _, got {name!r}")
    return Manifest(folder=(sweeps / name).resolve())


def find_mixed(cells: Sequence[SweepCell], states: Mapping[str, State]) -> dict[str, str]:
    """Find shards of one embedding that are done, but not in one space: cell → what is wrong.

    The rows of another space are of no use to a run, which would embed them again, alone.
    """
    together: dict[str, list[SweepCell]] = {}
    for cell in cells:
        if cell.embedding and states[cell.id].status == DONE:
            together.setdefault(cell.embedding, []).append(cell)
    mixed: dict[str, str] = {}
    for members in together.values():
        first = members[0]
        other = next((m for m in members if states[m.id].spaces != states[first.id].spaces), None)
        if other is not None:
            reason = (
                "the shards of one embedding must be of one code, backbone and kind of device; "
                f"{first.request['shard']} and {other.request['shard']} are not (their spaces are "
                f"{_name_spaces(states[first.id])} and {_name_spaces(states[other.id])}; bench "
                "cache info shows them); bench sweep retry embeds what is not there"
            )
            mixed |= {member.id: reason for member in members}
    return mixed


def _name_spaces(state: State) -> str:
    return "+".join(key[:12] for key in state.spaces) or "unknown"


def explain_block(cell: SweepCell, statuses: Mapping[str, str]) -> str:
    """Explain why a cell cannot run, by the statuses of those it needs; empty if it can."""
    bad = [need for need in cell.needs if statuses.get(need) in ENDED_BADLY]
    return f"needs {bad[0]}, which is {statuses[bad[0]]}" if bad else ""


def _read(path: Path, kind: type[T], mend: str) -> T:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptData(f"{path} cannot be read ({error}); {mend}") from error
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    if not isinstance(data, dict) or not set(data) <= known:
        raise CorruptData(
            f"{path} must hold the fields of a {kind.__name__} of this version; {mend}"
        )
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
    except TypeError as error:
        raise CorruptData(f"{path} lacks a field ({error}); {mend}") from error


def _write(path: Path, value: Any) -> None:
    with _explain_disk_errors(path), write_whole(path) as temporary:
        temporary.write_text(f"{json.dumps(asdict(value), indent=1)}\n", encoding="utf-8")


@contextmanager
def _explain_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except CirbenchError:
        raise
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); free space, or choose another "
            "--sweeps-dir"
        ) from error
