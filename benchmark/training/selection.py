"""Triplets of a task, and the validation score that selects a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.api.values import Selection, TaskData, Triplet
from cirbench.benchmark.data.made import is_made
from cirbench.benchmark.embedding.pictures import BatchSize, ImageFeatures
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import compose
from cirbench.benchmark.evaluation.plan import check_whole
from cirbench.benchmark.evaluation.run import make_gallery
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.scoring.summary import find_depth, score
from cirbench.benchmark.training.features import embed_pictures
from cirbench.benchmark.training.state import describe_lines


def find_supervision(
    task: str, data_root: Path | None, choose: tuple[str, tuple[str, ...]] | None = None
) -> dict[str, Any]:
    """Find a task's triplets, and how the best epoch is selected: fields of a training's job.

    Raises:
        UsageError, MissingData, CorruptData: as `find_selection`.
    """
    selection, validation = find_selection(task, data_root, choose)
    found = find_task(task)()
    made = " (made)" if is_made(data_root, found.places) else ""
    return {
        "triplets": found.triplets(data_root=data_root),
        "selection": selection,
        "validation": validation,
        "trained_on": f"{found.title or task}{made}",
    }


def find_selection(
    task: str, data_root: Path | None, choose: tuple[str, tuple[str, ...]] | None = None
) -> tuple[Selection, TaskData]:
    """Find how the best of several states is selected, and the split that it is selected on.

    Args:
        choose: the protocol and the metrics of the selection; None are the task's own.

    Raises:
        UsageError: the task has no triplets.
        MissingData, CorruptData: as the task says.
    """
    found = find_task(task)()
    if found.selection is None:
        raise UsageError(f"a task must have triplets to be trained or selected on, got {task}")
    selection = found.selection
    if choose:
        selection = replace(selection, protocol=found.protocols[choose[0]], metrics=choose[1])
    validation = found.load(protocol=selection.protocol, split=selection.split, data_root=data_root)
    check_whole(found, validation)
    return selection, validation


def embed_selection(
    backbone: Backbone, selection: Selection, data: TaskData, workers: int, reporter: Reporter
) -> ImageFeatures:
    """Embed the pictures of the selection's split, as its protocol prepares them."""
    protocol, pictures = selection.protocol, data.pictures.values()
    images = embed_pictures(backbone, protocol.preprocess, pictures, workers, reporter)
    if not protocol.reference_preprocess:
        return images
    refs = [query.reference for query in data.queries]
    own = embed_pictures(backbone, protocol.reference_preprocess, refs, workers, reporter)
    return replace(images, references=own)


def describe_supervision(
    triplets: Sequence[Triplet], selection: Selection, validation: TaskData
) -> dict[str, Any]:
    """Describe triplets and selection, for a resume to compare and a header to keep."""
    lines = (
        f"{t.reference.id}|{t.target.id}|{t.captions}|{t.group}|{t.fields}|"
        f"{[ref.id for ref in t.equals]}"
        for t in triplets
    )
    return {
        "triplets": describe_lines(lines),
        "selection": describe_selection(selection, validation),
    }


def describe_selection(selection: Selection, validation: TaskData) -> dict[str, Any]:
    """Describe how the best state is selected, for a resume to compare and a header to keep."""
    return {
        "split": selection.split,
        "metrics": list(selection.metrics),
        "protocol": f"{selection.protocol.name}@{selection.protocol.hash}",
        "annotations": validation.annotations_sha256,
    }


def score_selection(
    method: Method,
    selection: Selection,
    data: TaskData,
    images: ImageFeatures,
    texts: TextFeatures,
    *,
    batch_size: int | None = None,
    workers: int = 2,
) -> float:
    """Score a method by the selection's metrics, in percent: mean within groups, then over them.

    Args:
        data: the selection's split.
        images: holds at least the split's pictures.
        batch_size: so many queries are composed at a time; None: all, which is quickest where a
            method reads no pixels.
        workers: threads that read pictures, if the method asks for pixels.
    """
    protocol = replace(selection.protocol, metrics=selection.metrics, headline=selection.metrics[0])
    size = BatchSize(value=batch_size or len(data.queries))
    with Reporter(quiet=True).stage("selection", len(data.queries)) as stage:
        vectors = compose(
            method, data.queries, protocol, images, texts, size=size, workers=workers, stage=stage
        )
    with torch.inference_mode():
        gallery = make_gallery(method, images.of(data.gallery), str(texts.backbone.device)).cpu()
        depth, own = find_depth(protocol), method.own_score
        found = score(data, rank_queries(data, vectors, gallery, depth, own), protocol)
    groups = dict.fromkeys(found.group.tolist())
    return float(np.mean([found.values[found.group == group].mean() for group in groups]))
