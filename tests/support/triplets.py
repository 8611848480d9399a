"""Trainings on made triplets: picture 2 i + 1 is the target of picture 2 i."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import find_method, find_training
from cirbench.benchmark.api.values import ImageRef, Query, Selection, TaskData, Triplet
from cirbench.methods.supervised.training import SupervisedJob

PROTOCOL = EvaluationProtocol(
    name="next",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "the {what}", "caption": "{what}"},
    metrics=("R@1", "R@5"),
    headline="R@1",
)
WORDINGS = ("next", "the next one")
SMALL: dict[str, dict[str, Any]] = {
    "tirg": {"width": 16},
    "maaf": {"width": 16, "heads": 2, "hidden": 16, "blocks": 1, "sampler": "random"},
    "artemis": {"width": 16, "word_width": 8, "first_epochs": 2, "epochs": 3},
    "cirplant": {
        "init": "",
        "width": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 16,
        "dropout": 0.1,
        "epochs": 5,
    },
}
"""Of each system a network and a training that fit a test."""


def make_triplets(refs: Sequence[ImageRef], **more: Any) -> list[Triplet]:
    return [
        Triplet(
            reference=refs[i],
            target=refs[i + 1],
            captions=WORDINGS,
            fields=tuple({"what": text} for text in WORDINGS),
            **more,
        )
        for i in range(0, len(refs) - 1, 2)
    ]


def make_supervision(refs: Sequence[ImageRef], trained: int) -> dict[str, Any]:
    """The fields of a job that `find_supervision` finds; the first pictures are trained on."""
    queries = tuple(
        Query(id=str(i), reference=refs[i], positives=(i + 1,), fields={"what": WORDINGS[0]})
        for i in range(0, len(refs), 2)
    )
    return {
        "triplets": make_triplets(refs[:trained]),
        "selection": Selection(split="val", protocol=PROTOCOL, metrics=("R@5", "R@1")),
        "validation": TaskData(gallery=tuple(refs), queries=queries, annotations={}),
        "trained_on": "pairs",
    }


def make_training_job(
    method: str,
    backbone: Backbone,
    refs: Sequence[ImageRef],
    output: Path,
    *,
    epochs: int | None = None,
    **recipe: Any,
) -> SupervisedJob:
    """A job of a small network on a batch size of 8; the pictures are the selection's, too.

    Args:
        epochs: of the whole training; None as in SMALL, else 5.
    """
    supervision = make_supervision(refs, len(refs))
    numbers = {"batch_size": 8, **SMALL[method], **recipe}
    if method in ("tirg", "maaf"):
        steps = max(1, len(supervision["triplets"]) // numbers["batch_size"])
        numbers["steps"] = (epochs or 5) * steps
    elif epochs:
        numbers["epochs"] = epochs - numbers.get("first_epochs", 0)
    return SupervisedJob(
        method=find_method(method),
        recipe=find_training(method).recipe(**numbers),
        backbone=backbone,
        output=output,
        **supervision,
    )


def read_log(job: SupervisedJob) -> list[tuple[float, float]]:
    """Mean loss and selection score of each epoch."""
    with job.output.with_suffix(".log.csv").open(encoding="utf-8") as file:
        return [(float(r["loss"]), float(r["selection_score"])) for r in csv.DictReader(file)]
