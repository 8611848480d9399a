"""`--cluster local`: a queue of one machine, a process of its own that outlives its submitter.

Each cell is a submitit job, as on Slurm: its own processes, log, time limit and requeue. The queue
starts as many at a time as asked for, gives each its GPUs, and lets cells wait for what they need.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit

from cirbench.benchmark.runtime.errors import UsageError
from cirbench.slurm.cells.manifest import (
    CANCELLED,
    DONE,
    FAILED,
    OPEN,
    SKIPPED,
    Manifest,
    Submission,
    SweepCell,
    explain_block,
)
from cirbench.slurm.node.worker import CellJob

MODULE = "cirbench.slurm.queues.local"
"""What is started, as another process knows it."""
_PROCESSES = Path("/proc")
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0


def check_machine() -> None:
    """Check that this machine lists its processes as Linux does, or raise a UsageError."""
    if not _PROCESSES.exists():
        raise UsageError(
            "--cluster local needs Linux, which lists its processes in /proc; "
            "--cluster debug runs the cells one after the other in this process"
        )


def start(manifest: Manifest, submission: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Start the queue for a submission, and give what finds its process again."""
    manifest.logs.mkdir(parents=True, exist_ok=True)
    with (manifest.logs / f"local-{submission}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(manifest.folder), submission],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    return {"host": socket.gethostname(), "id": process.pid, "began": _read_start(process.pid)}


def is_alive(submission: Submission) -> bool:
    """Whether its queue still runs; on another machine that can't be known, and it counts as so."""
    process = submission.process
    if process is None:
        return False
    if process["host"] != socket.gethostname():
        return True
    return process["began"] is not None and _read_start(process["id"]) == process["began"]


def stop(submission: Submission) -> None:
    """End a queue and its cells.

    Raises:
        UsageError: it runs on another machine.
    """
    process = submission.process
    if process is None or not is_alive(submission):
        return
    if process["host"] != socket.gethostname():
        raise UsageError(f"the sweep's local queue runs on {process['host']}; cancel it there")
    for number in (signal.SIGINT, signal.SIGKILL):
        if _list_members(process["id"]):
            os.killpg(process["id"], number)
        end = time.monotonic() + _PATIENCE_SECONDS
        while _list_members(process["id"]) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)


def _list_members(group: int) -> list[int]:
    """The live processes of a group."""
    found = []
    for path in _PROCESSES.glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[2]) == group:
            found.append(int(path.parent.name))
    return found


def _read_start(process: int) -> str | None:
    """Read when a process began, in kernel ticks: a process id alone is used again."""
    try:
        told = (_PROCESSES / str(process) / "stat").read_text(encoding="utf-8")
        fields = told.rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def find_gpus() -> list[int]:
    """Find the GPUs of CUDA_VISIBLE_DEVICES, else all of the machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [int(number) for number in visible.split(",") if number.strip().isdigit()]
    names = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(int(name) for name in names)


@dataclass
class LocalQueue:
    """The queue of one submission."""

    manifest: Manifest
    waiting: list[SweepCell]
    at_a_time: int
    free_gpus: list[int] = field(default_factory=find_gpus)
    running: dict[str, tuple[submitit.Job[str], list[int]]] = field(default_factory=dict)

    def run(self) -> None:
        """Run every cell, and return when all have ended."""
        total_gpus = len(self.free_gpus)
        while self.waiting or self.running:
            self._reap()
            for cell in list(self.waiting):
                if len(self.running) >= self.at_a_time:
                    break
                wanted = cell.resources.get("gpus_per_node", 0)
                impossible = wanted > total_gpus  # it starts, and says so itself
                if self._ready(cell) and (impossible or wanted <= len(self.free_gpus)):
                    self._start(cell, 0 if impossible else wanted)
            time.sleep(_POLL_SECONDS)

    def _ready(self, cell: SweepCell) -> bool:
        statuses = {need: self.manifest.read_state(need).status for need in cell.needs}
        if reason := explain_block(cell, statuses):
            self.waiting.remove(cell)
            state = replace(self.manifest.read_state(cell.id), status=SKIPPED, reason=reason)
            self.manifest.write_state(cell.id, state)
            return False
        return all(status == DONE for status in statuses.values())

    def _start(self, cell: SweepCell, gpus: int) -> None:
        self.waiting.remove(cell)
        given, self.free_gpus = self.free_gpus[:gpus], self.free_gpus[gpus:]
        asked = cell.resources
        executor = submitit.LocalExecutor(
            folder=self.manifest.logs, max_num_timeout=asked.get("slurm_max_num_timeout", 3)
        )
        executor.update_parameters(
            timeout_min=asked["timeout_min"],
            gpus_per_node=len(given),
            visible_gpus=given,
            tasks_per_node=asked.get("tasks_per_node", 1),
            stderr_to_stdout=True,
            signal_delay_s=asked.get("slurm_signal_delay_s", 30),
            setup=asked.get("local_setup", ()),
        )
        job = executor.submit(CellJob(str(self.manifest.cell_path(cell.id))))
        self.running[cell.id] = (job, given)

    def _reap(self) -> None:
        for cell, (job, gpus) in list(self.running.items()):
            if not job.done():
                continue
            del self.running[cell]
            self.free_gpus += gpus
            state = self.manifest.read_state(cell)
            if state.status in OPEN:
                self.manifest.write_state(
                    cell,
                    replace(
                        state,
                        status=FAILED,
                        reason="its process ended without reporting a result",
                        job=job.job_id,
                        ended=time.time(),
                        log=self.manifest.read_log_tail(job.job_id),
                    ),
                )


def main() -> None:
    """Work off the submission named on the command line."""
    folder, name = sys.argv[1:]
    manifest = Manifest(folder=Path(folder))
    submission = manifest.read_submissions()[name]
    cells = [manifest.read_cell(cell) for cell in submission.cells]
    at_a_time = max(cell.resources.get("slurm_array_parallelism", 0) for cell in cells)
    cpus = max(int(cell.resources.get("cpus_per_task", 1)) for cell in cells)
    local_queue = LocalQueue(manifest, cells, at_a_time or max(1, (os.cpu_count() or 1) // cpus))
    try:
        local_queue.run()
    except KeyboardInterrupt:
        for cell in cells:
            if (state := manifest.read_state(cell.id)).status in OPEN:
                manifest.write_state(cell.id, replace(state, status=CANCELLED))


if __name__ == "__main__":
    main()
