"""Sends what is missing to a queue and returns: one job array per distinct set of resources.

What will be asked for is written down before Slurm is asked, and the job's id after, so that a
submitter killed in between leaves cells that `status` finds again by the job's name.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import submitit

from cirbench.benchmark.runtime.errors import CheckFailed, UsageError
from cirbench.slurm.cells.manifest import (
    CANCELLED,
    OPEN,
    SKIPPED,
    Manifest,
    State,
    Submission,
    SweepCell,
    explain_block,
)
from cirbench.slurm.node.worker import CellJob, work
from cirbench.slurm.queues import local
from cirbench.slurm.queues import squeue as queue
from cirbench.slurm.queues.snapshot import JobCode
from cirbench.slurm.status import CellStatus, ask_queues

_LARGEST_ARRAY = 1000
"""Slurm's own default for MaxArraySize is 1001, the first index that is too large."""

_SLURMS = {"timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks_per_node"}
"""Where `submitit.SlurmExecutor` has another name than `submitit.AutoExecutor`."""


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """Cells that ask for the same resources and wait for the same cells."""

    cells: tuple[SweepCell, ...]

    @property
    def resources(self) -> Mapping[str, Any]:
        return self.cells[0].resources

    @property
    def needs(self) -> tuple[str, ...]:
        return self.cells[0].needs


def group_into_arrays(cells: Sequence[SweepCell]) -> list[JobArray]:
    """Group cells that may share an array; what others need comes first."""
    groups: dict[str, list[SweepCell]] = {}
    for cell in cells:
        key = json.dumps([cell.kind == "run", cell.resources, list(cell.needs)], sort_keys=True)
        groups.setdefault(key, []).append(cell)
    ordered = sorted(groups.values(), key=lambda members: bool(members[0].needs))
    return [
        JobArray(cells=tuple(members[start : start + _LARGEST_ARRAY]))
        for members in ordered
        for start in range(0, len(members), _LARGEST_ARRAY)
    ]


def submit(manifest: Manifest, cells: Sequence[SweepCell], cluster: str, code: JobCode) -> int:
    """Send cells to a queue, and give how many arrays (or local queues) they became.

    The caller holds the manifest's lock.

    Raises:
        UsageError: there is no such cluster, no Slurm or no Linux, or Slurm refuses what is
            asked for; then nothing is submitted.
        CheckFailed: Slurm stops taking jobs half-way; what it took is noted and runs.
    """
    if not cells:
        return 0
    manifest.stop_sign.unlink(missing_ok=True)
    if cluster == "slurm":
        together = group_into_arrays(cells)
        check_with_slurm(manifest, together, code)
        for array in together:
            _submit_array(manifest, array, code)
        return len(together)
    if cluster == "local":
        local.check_machine()
        submission = _make_submission(cluster, cells)
        manifest.queue_together(submission, cells)
        process = local.start(manifest, submission.id, code.environment)
        manifest.write_submission(replace(submission, process=process))
        return 1
    _run_here(manifest, cells)
    return 1


def _make_submission(cluster: str, cells: Sequence[SweepCell]) -> Submission:
    return Submission(
        id=secrets.token_hex(4), cluster=cluster, cells=tuple(cell.id for cell in cells)
    )


def _run_here(manifest: Manifest, cells: Sequence[SweepCell]) -> None:
    """Run cells in this process, one after the other, for a debugger."""
    manifest.queue_together(_make_submission("debug", cells), cells)
    for cell in cells:
        if reason := explain_block(
            cell, {need: manifest.read_state(need).status for need in cell.needs}
        ):
            state = replace(manifest.read_state(cell.id), status=SKIPPED, reason=reason)
            manifest.write_state(cell.id, state)
        elif work(manifest.cell_path(cell.id)).status == CANCELLED:
            raise KeyboardInterrupt


def check_with_slurm(manifest: Manifest, together: Sequence[JobArray], code: JobCode) -> None:
    """Ask sbatch about each distinct set of resources, and tell every refusal at once.

    Raises:
        UsageError: no Slurm, or a partition, account or amount that it does not have.
    """
    queue.check_slurm()
    scripts = {
        write_sbatch_script(manifest, replace(array, cells=array.cells[:1]), "test", code)
        for array in together
    }
    refusals = {reason for script in sorted(scripts) if (reason := queue.find_refusal(script))}
    if refusals:
        raise UsageError(
            f"Slurm refused the sweep's resources: {'; '.join(sorted(refusals))}; nothing was "
            "submitted; sinfo lists partitions and nodes, and --profile sets what is requested"
        )


def _submit_array(manifest: Manifest, array: JobArray, code: JobCode) -> None:
    submission = _make_submission("slurm", array.cells)
    manifest.queue_together(submission, array.cells)
    parameters = make_sbatch_parameters(manifest, array, submission.id, code)
    timeouts = array.resources.get("slurm_max_num_timeout", 3)
    executor = submitit.SlurmExecutor(folder=manifest.logs, max_num_timeout=timeouts)
    executor.update_parameters(**parameters)
    calls = [CellJob(str(manifest.cell_path(cell.id))) for cell in array.cells]
    try:
        jobs = executor.submit_array(calls)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        for cell in array.cells:
            manifest.write_state(cell.id, State(attempts=manifest.read_state(cell.id).attempts))
        raise CheckFailed(
            f"sbatch accepts no more jobs ({' '.join(str(error).split())}); the accepted cells "
            f"run; submit the sweep again for these {len(array.cells)} and any after them"
        ) from error
    manifest.write_submission(replace(submission, job=jobs[0].job_id.split("_")[0]))


def make_sbatch_parameters(
    manifest: Manifest,
    array: JobArray,
    name: str,
    code: JobCode,
    waits_for: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Make the parameters of submitit's Slurm executor for an array."""
    asked = {k: v for k, v in array.resources.items() if not k.startswith("local_")}
    asked.pop("slurm_max_num_timeout", None)
    parameters = to_slurm_names(asked)
    exports = [
        f"export {name}={shlex.quote(value)}" for name, value in sorted(code.environment.items())
    ]
    parameters |= {
        "job_name": f"{manifest.name}-{name}",
        "setup": [*parameters.get("setup", []), *exports],
        "stderr_to_stdout": True,
    }
    # a job that is lost with its node begins again, also where the site's default is another
    parameters["additional_parameters"] = {
        "requeue": True,
        **parameters.get("additional_parameters", {}),
    }
    if parameters.get("ntasks_per_node", 1) * parameters.get("nodes", 1) > 1:
        # else the tasks of a training would wait for one that has failed
        parameters["srun_args"] = [*parameters.get("srun_args", []), "--kill-on-bad-exit"]
    jobs = _find_jobs(manifest, array.needs) if waits_for is None else waits_for
    if jobs:
        parameters["dependency"] = ",".join(f"afterok:{job}" for job in jobs)
        more = {"kill-on-invalid-dep": "yes", **parameters["additional_parameters"]}
        parameters["additional_parameters"] = more
    return parameters


def _find_jobs(manifest: Manifest, needs: Sequence[str]) -> list[str]:
    """Find the jobs of the needed cells that are not done yet."""
    states = {needed: manifest.read_state(needed) for needed in needs}
    waiting = {n: s for n, s in states.items() if s.status in OPEN}
    answers = ask_queues(manifest, list(waiting.values()))
    return [job for state in waiting.values() if (job := answers.find_job(state))]


def to_slurm_names(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Rename resources to sbatch's options, as `timeout_min` to `time`; zero GPUs are dropped."""
    named = {_SLURMS.get(k, k.removeprefix("slurm_")): value for k, value in asked.items()}
    if not named.get("gpus_per_node"):
        named.pop("gpus_per_node", None)
    if isinstance(memory := named.get("mem"), int | float):
        named["mem"] = f"{round(memory * 1024)}MB"
    return named


class SbatchScript(submitit.SlurmExecutor):
    """The script that submitit would hand to sbatch, also where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def render(self, count: int) -> str:
        """Render the script of one job, or of an array of several."""
        if count > 1:
            self.parameters["map_count"] = count
        return str(self._make_submission_file_text(self._submitit_command_str, ""))


def write_sbatch_script(
    manifest: Manifest, array: JobArray, name: str, code: JobCode, waits_for: Sequence[str] = ()
) -> str:
    """Write the sbatch script of an array, as text."""
    scribe = SbatchScript(folder=manifest.logs)
    scribe.update_parameters(**make_sbatch_parameters(manifest, array, name, code, waits_for))
    return scribe.render(len(array.cells))


def cancel(manifest: Manifest, rows: Sequence[CellStatus]) -> int:
    """Cancel every cell that waits or runs, and give how many.

    Raises:
        UsageError: a local queue runs on another machine, or Slurm is not there.
    """
    submissions = manifest.read_submissions()
    moving = [row for row in rows if row.state.status in OPEN]
    of = {row.state.submission: submissions.get(row.state.submission or "") for row in moving}
    for submission in of.values():
        if submission is not None and submission.cluster == "local":
            local.stop(submission)
    with_slurm = [
        str(row.state.job)
        for row in moving
        if (s := of[row.state.submission]) is not None and s.cluster == "slurm" and row.state.job
    ]
    queue.cancel(with_slurm)
    for row in moving:
        if (state := manifest.read_state(row.cell.id)).status in OPEN:
            manifest.write_state(
                row.cell.id,
                replace(state, status=CANCELLED, reason="bench sweep cancel", job=row.state.job),
            )
    return len(moving)
