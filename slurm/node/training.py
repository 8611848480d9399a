"""What a cell of kind "train" does: weights that the sweep makes before it uses them.

A training that several processes can share gets as many as the cell has tasks (tasks_per_node, one
GPU each); any other is done by the first alone. After a requeue it goes on from its saved state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit

from cirbench.benchmark.api.registry import find_training
from cirbench.benchmark.api.training import Training, TrainingRequest
from cirbench.benchmark.runtime.progress import Reporter


def find_task_rank() -> int:
    """Which of its job's tasks this process is; 0 outside of a job."""
    try:
        return submitit.JobEnvironment().global_rank
    except RuntimeError:
        return 0


def train(request: Mapping[str, Any]) -> None:
    """Train what a cell asks for, unless its weights are there."""
    training: Training = find_training(request["method"])()
    rank = find_task_rank()
    if Path(request["output"]).is_file() or (rank and not training.parallel):
        return
    if training.parallel:
        _set_meeting_point()
    wanted = TrainingRequest(
        source=request[training.source],
        backbone=request["backbone"],
        output=Path(request["output"]),
        recipe=request["recipe"],
        data_root=Path(request["data_root"]) if request["data_root"] else None,
        device=request["device"],
        precision=request["precision"],
        workers=request.get("workers", TrainingRequest.workers),
        checkpoint_every=request["checkpoint_every"],
    )
    training.train(wanted, Reporter(quiet=rank > 0), resume=True)


def _set_meeting_point() -> None:
    """Tell torch where its processes meet; on one node by an address that needs no name."""
    if "WORLD_SIZE" in os.environ:
        return
    try:
        job = submitit.JobEnvironment()
    except RuntimeError:
        return
    if job.num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if job.num_nodes == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
