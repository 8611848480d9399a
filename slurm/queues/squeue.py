"""Slurm's commands: `squeue` for jobs, and `sacct` where a site keeps accounts."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cirbench.benchmark.runtime.errors import CheckFailed, UsageError
from cirbench.slurm.cells.manifest import CANCELLED, FAILED, OOM, QUEUED, RUNNING, TIMEOUT

_FIELDS = ("JobArrayID", "State", "exit_code", "NodeList", "Reason", "Name")
_TIMEOUT_SECONDS = 60

STATUS_OF = {
    "PENDING": QUEUED,
    "CONFIGURING": QUEUED,
    "REQUEUED": QUEUED,
    "REQUEUE_HOLD": QUEUED,
    "REQUEUE_FED": QUEUED,
    "SPECIAL_EXIT": QUEUED,
    "RUNNING": RUNNING,
    "COMPLETING": RUNNING,
    "SUSPENDED": RUNNING,
    "STOPPED": RUNNING,
    "SIGNALING": RUNNING,
    "STAGE_OUT": RUNNING,
    "RESIZING": RUNNING,
    "CANCELLED": CANCELLED,
    "TIMEOUT": TIMEOUT,
    "DEADLINE": TIMEOUT,
    "OUT_OF_MEMORY": OOM,
}
"""A sweep's state for each of Slurm's; every other one is a failure."""

_OOM_SIGNAL = 125
"""The "signal" of a job whose cgroup ran out of memory (slurm.h, SIG_OOM)."""
_OOM_LINE = re.compile(r"^(slurmstepd|srun): .*(oom[-_ ]kill|out of memory)", re.I)


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """One job, or one task of an array, as Slurm sees it."""

    id: str
    status: str
    reason: str
    node: str | None = None
    name: str = ""


def check_slurm() -> None:
    """Check that Slurm is available; raises UsageError where it is not."""
    if shutil.which("sbatch") is None:
        raise UsageError(
            "Slurm is not available (no sbatch on PATH); log in to the cluster, or use --cluster "
            "local"
        )


def list_jobs() -> dict[str, QueuedJob]:
    """List every job of this user that Slurm still knows, also ended ones, by id.

    Raises:
        CheckFailed: Slurm does not answer.
        UsageError: there is no Slurm.
    """
    check_slurm()
    fields = ",".join(f"{name}:;" for name in _FIELDS)
    answer = _ask(
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--user={getpass.getuser()}",
        f"--Format={fields}",
    )
    if answer.returncode:
        raise CheckFailed(
            f"squeue failed: {answer.stderr.strip()}; check slurmctld with scontrol ping"
        )
    jobs = (_parse_job(line.split(";")) for line in answer.stdout.splitlines() if line.strip())
    return {job.id: job for job in jobs}


def read_accounts(jobs: Iterable[str]) -> dict[str, QueuedJob]:
    """Read from the accounts the jobs that the queue has forgotten; none where none are kept.

    A job of which one step ran out of memory did so itself, whatever its script made of that.
    """
    wanted = set(jobs)
    if not wanted or shutil.which("sacct") is None:
        return {}
    answer = _ask(
        "sacct",
        "--jobs",
        ",".join(sorted({job.partition("_")[0] for job in wanted})),  # arrays: a line has its limit
        "--noheader",
        "--parsable2",
        "--format=JobID,State,ExitCode,NodeList",
    )
    if answer.returncode:
        return {}
    found: dict[str, QueuedJob] = {}
    for line in answer.stdout.splitlines():
        name, state, code, node = line.split("|")[:4]
        job, _, step = name.partition(".")
        word = state.split()[0].rstrip("+")  # "CANCELLED by 1000"
        status = STATUS_OF.get(word, FAILED)
        of_failed = job in found and found[job].status == FAILED
        if job in wanted and (not step or (status == OOM and of_failed)):
            reason = f"Slurm: {word}, exit code {code}"
            found[job] = QueuedJob(id=job, status=status, reason=reason, node=node)
    return found


def tells_of_oom(log: Iterable[str]) -> bool:
    """Whether Slurm wrote into a job's log that its cgroup ran out of memory.

    Where only a step of a job did, the job itself is FAILED to `squeue`.
    """
    return any(_OOM_LINE.match(line) for line in log)


def cancel(jobs: Iterable[str]) -> None:
    """Ask Slurm to cancel jobs; ended ones are no error."""
    ids = list(jobs)
    if not ids:
        return
    answer = _ask("scancel", *ids)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise CheckFailed(f"scancel: {answer.stderr.strip()}")


_NOT_NOW = ("down, drained or reserved", "nodes are busy", "nodes required for job are")
"""What `sbatch --test-only` fails with where sbatch queues the job: in a maintenance, say."""


def find_refusal(script: str) -> str | None:
    """Find why sbatch would refuse a script; None where it would queue it.

    Nothing is submitted.
    """
    answer = _ask("sbatch", "--test-only", stdin=script)
    if not answer.returncode:
        return None
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    if lines and any(words in lines[-1].lower() for words in _NOT_NOW):
        return None
    return lines[-1] if lines else f"sbatch exited with {answer.returncode}"


def _parse_job(values: list[str]) -> QueuedJob:
    job, state, code, node, reason, *rest = values
    status = STATUS_OF.get(state, FAILED)
    if status == FAILED and code == str(_OOM_SIGNAL):
        status = OOM
    if status in (QUEUED, RUNNING):
        told = "" if reason == "None" else reason
    else:
        told = f"Slurm: {state}{_describe_exit(code)}" + ("" if reason == "None" else f", {reason}")
    return QueuedJob(
        id=job, status=status, reason=told, node=node or None, name=rest[0] if rest else ""
    )


def _describe_exit(code: str) -> str:
    """Put the wait status that squeue prints into words."""
    if not code.isdigit() or code == "0":
        return ""
    ended = os.waitstatus_to_exitcode(int(code))
    if 128 < ended < 160:  # as a shell tells of a command's signal
        ended = 128 - ended
    return f", killed by signal {-ended}" if ended < 0 else f", exit code {ended}"


def _ask(
    *arguments: str, stdin: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            arguments,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            env=environment,
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(
            f"{arguments[0]} has not answered for {_TIMEOUT_SECONDS} s; check slurmctld with "
            "scontrol ping"
        ) from error
