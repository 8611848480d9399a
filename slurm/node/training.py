"""What a cell of kind "train" does: weights that the sweep makes before it uses them.

Pic2Word is trained by as many processes as the cell has tasks (tasks_per_node, one GPU each), the
Combiner by the first alone. After a requeue both go on from their saved state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import submitit

from cirbench.benchmark.runtime.progress import Reporter


def task_rank() -> int:
    """Which of its job's tasks this process is; 0 outside of a job."""
    try:
        return submitit.JobEnvironment().global_rank
    except RuntimeError:
        return 0


def train(request: Mapping[str, Any]) -> None:
    """Trains what a cell asks for, unless its weights are there."""
    if not Path(request["output"]).is_file():
        _TRAININGS[request["method"]](request)


def _train_pic2word(request: Mapping[str, Any]) -> None:
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.images.sources import find_training_images
    from cirbench.methods.pic2word.gradient import join_processes, own_device
    from cirbench.methods.pic2word.training import Job, Recipe, train

    refs, label = find_training_images(request["images"])
    where = choose_device(request["device"])
    _say_where_to_meet()
    processes = join_processes(where)
    device = own_device(where, processes)
    job = Job(
        recipe=Recipe(**request["recipe"]),
        backbone=load_backbone(request["backbone"], device=device, precision=request["precision"]),
        images=refs, trained_on=label, output=Path(request["output"]),
        checkpoint_every=request["checkpoint_every"], processes=processes,
    )  # fmt: skip
    train(job, Reporter(quiet=processes.rank > 0), resume=True)


def _say_where_to_meet() -> None:
    """To torch, as submitit knows it; on one node without a name that others would have to know."""
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


def _train_combiner(request: Mapping[str, Any]) -> None:
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.training.selection import task_supervision
    from cirbench.methods.combiner.training import Job, Recipe, train

    if task_rank():
        return
    root = Path(request["data_root"]) if request["data_root"] else None
    job = Job(
        **task_supervision(request["task"], root), recipe=Recipe(**request["recipe"]),
        backbone=load_backbone(
            request["backbone"], device=choose_device(request["device"]),
            precision=request["precision"],
        ),
        output=Path(request["output"]),
    )  # fmt: skip
    train(job, Reporter(), resume=True)


_TRAININGS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "pic2word": _train_pic2word, "combiner": _train_combiner,
}  # fmt: skip
