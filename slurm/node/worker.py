"""One cell, on whatever node it was sent to: `python -P -m cirbench.slurm.node.worker CELL.json`.

The job writes its own end. Slurm forgets a job minutes after it has ended, and where a site keeps
no accounting nobody else could say later what became of it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit

from cirbench.benchmark.runtime.errors import CheckFailed, CirbenchError
from cirbench.slurm.cells.manifest import (
    CANCELLED,
    DONE,
    FAILED,
    LOG_LINES,
    OOM,
    QUEUED,
    RUNNING,
    SKIPPED,
    TIMEOUT,
    Manifest,
    State,
    SweepCell,
    find_mixed,
)
from cirbench.slurm.node.training import find_task_rank, train

_MOST_LOSSES = 5
"""As often as Slurm by itself begins a job again whose start fails (max_batch_requeue)."""


@dataclass
class CellJob:
    """The job that submitit runs on a node, and again after a requeue: one cell's path."""

    path: str

    def __call__(self) -> str:
        state = work(Path(self.path))
        if state.status != DONE:
            sys.exit(1)  # so that Slurm lets nothing begin that needs this cell
        return state.status

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Requeue the job, on preemption and shortly before the time limit."""
        manifest, cell = _locate(Path(self.path))
        state = manifest.read_state(cell)
        reason = f"requeued after preemption or timeout, attempt {state.attempts}"
        manifest.write_state(cell, replace(state, status=QUEUED, reason=reason))
        return submitit.helpers.DelayedSubmission(self)


def work(path: Path) -> State:
    """Run the cell that a file describes, and give the state it ended in, already written.

    Raises:
        CorruptData: the file is damaged.
        UsageError: the state can't be written.
    """
    manifest, name = _locate(path)
    cell = manifest.read_cell(name)
    if find_task_rank():
        return _work_beside(manifest, cell)
    state = _begin(manifest.read_state(name))
    if manifest.stop_sign.is_file():
        stopper = manifest.stop_sign.read_text(encoding="utf-8")
        reason = f"--fail-fast: {stopper} failed"
        return _end(manifest, name, replace(state, status=SKIPPED, reason=reason))
    if state.losses > _MOST_LOSSES:
        reason = f"its job was {state.reason}; bench sweep retry begins again"
        return _end(manifest, name, replace(state, status=FAILED, reason=reason))
    manifest.write_state(name, state)
    ending = _attempt(manifest, cell)
    status = ending.status
    before = manifest.read_state(name)
    if status == FAILED and before.status == QUEUED:
        return before  # requeued: Slurm may kill the command that asks for it before it answers
    if status == FAILED and before.status in (FAILED, OOM):  # another task did, so this one had to
        state = before
    else:
        state = replace(state, status=status, reason=ending.reason, spaces=ending.spaces)
    if status not in (DONE, CANCELLED):
        log = state.log or _read_log_tail(manifest, state) or ending.trace[-LOG_LINES:]
        state = replace(state, log=log)
        if manifest.read_plan().fail_fast:
            manifest.stop_sign.write_text(name, encoding="utf-8")
    return _end(manifest, name, state)


def _work_beside(manifest: Manifest, cell: SweepCell) -> State:
    """Do the share of a task that is not the job's first, in a training of several processes.

    They write a state only to say why the first one will fail.
    """
    alone = cell.kind != "train" or manifest.stop_sign.is_file()
    ending = Ending() if alone else _attempt(manifest, cell)
    state = manifest.read_state(cell.id)
    if ending.status != DONE and state.status == RUNNING:
        reason = f"task {find_task_rank()}: {ending.reason}"
        log = ending.trace[-LOG_LINES:]
        state = replace(state, status=ending.status, reason=reason, log=log)
        manifest.write_state(cell.id, state)
    return replace(state, status=ending.status)


def _locate(path: Path) -> tuple[Manifest, str]:
    return Manifest(folder=path.absolute().parents[1]), path.stem


def _begin(state: State) -> State:
    job = find_job_id()
    lost = state.status == RUNNING and job is not None and state.job == job
    losses = state.losses + lost
    return State(
        status=RUNNING,
        reason=f"lost {losses} times, last with {state.node}" if lost else "",
        losses=losses,
        submission=state.submission if job else None,
        place=state.place,
        job=job,
        node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        started=time.time(),
        attempts=state.attempts + 1,
    )


def _end(manifest: Manifest, cell: str, state: State) -> State:
    state = replace(state, ended=time.time())
    manifest.write_state(cell, state)
    return state


def find_job_id() -> str | None:
    """The id of the job this process is, None by hand."""
    try:
        environment = submitit.JobEnvironment()
    except RuntimeError:
        return None
    return str(environment.job_id)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the work of a cell ended.

    Attributes:
        trace: lines that say why.
        spaces: as `State` has them.
    """

    status: str = DONE
    reason: str = ""
    trace: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()


def _attempt(manifest: Manifest, cell: SweepCell) -> Ending:
    """Do the work; every way it can end becomes a state, a reason and a trace."""
    try:
        _check_gpu(cell.resources)
        _check_shards(manifest, cell)
        return Ending(spaces=WORK[cell.kind](cell.request))
    except KeyboardInterrupt:
        return Ending(status=CANCELLED, reason="interrupted")
    except submitit.core.utils.UncompletedJobError as error:
        return Ending(status=TIMEOUT, reason=str(error))
    except CirbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return Ending(status=FAILED, reason=str(error), trace=(str(error),))
    except Exception as error:  # the sweep's boundary: a crash of any kind is a row of its table
        traceback.print_exc()
        status = OOM if _is_out_of_memory(error) else FAILED
        trace = tuple(traceback.format_exc().splitlines())
        return Ending(status=status, reason=_shorten(error), trace=trace)


def _check_shards(manifest: Manifest, cell: SweepCell) -> None:
    """Check that the shards of a run's embedding are of one space, before it embeds them anew."""
    needed = [manifest.read_cell(need) for need in cell.needs]
    states = {each.id: manifest.read_state(each.id) for each in needed}
    for reason in find_mixed(needed, states).values():
        raise CheckFailed(reason)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _shorten(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]


def _read_log_tail(manifest: Manifest, state: State) -> tuple[str, ...]:
    """Read the end of the job's own log; none by hand."""
    sys.stderr.flush()
    sys.stdout.flush()
    return manifest.read_log_tail(state.job) if state.job else ()


def _check_gpu(resources: Mapping[str, Any]) -> None:
    """Fail at once on a node whose GPU can't be used, before hours on its CPU."""
    if not any("gpu" in f"{name}={value}" for name, value in resources.items() if value):
        return
    import torch

    if not torch.cuda.is_available():
        raise CheckFailed(
            f"a GPU was requested, and {socket.gethostname()} has none that torch can use "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r}); check "
            "the node's driver, or request gpus_per_node = 0"
        )


def _run(request: Mapping[str, Any]) -> tuple[str, ...]:
    from cirbench.benchmark.evaluation.plan import Request, plan
    from cirbench.benchmark.evaluation.run import run
    from cirbench.benchmark.runtime.progress import Reporter

    for record in run(plan(Request.parse(request)), Reporter()):
        print(f"record: {record.path}", file=sys.stderr)
    return ()


def _embed(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Embed pictures for the runs that come after, by all their backbones, or a shard of them."""
    from cirbench.benchmark.evaluation.embed import embed_request
    from cirbench.benchmark.runtime.progress import Reporter

    return embed_request(request, Reporter()).spaces


def _train(request: Mapping[str, Any]) -> tuple[str, ...]:
    train(request)
    return ()


WORK: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, ...]]] = {
    "run": _run,
    "embed": _embed,
    "train": _train,
}
"""The work of each kind of cell; gives the spaces that it filled for others."""


def main() -> None:
    """Run one cell by hand; exit code 0 where it is done, else 1, and that of the error."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -P -m cirbench.slurm.node.worker SWEEPS/NAME/cells/CELL.json")
    try:
        state = work(Path(sys.argv[1]))
    except CirbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{state.status}: {state.reason}" if state.reason else state.status, file=sys.stderr)
    sys.exit(0 if state.status == DONE else 1)


if __name__ == "__main__":
    main()
