"""The one way from methods and a task to records: embed once, then compose, rank, score each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, ImageFeatures, embed_with
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import compose
from cirbench.benchmark.evaluation.plan import Plan, PlannedMethod, without_unreadable
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.ranking.rank import Ranking
from cirbench.benchmark.records.record import (
    Cell,
    Record,
    check_writable,
    write_record,
    write_submission,
)
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.provenance import environment, peak_memory_bytes
from cirbench.benchmark.runtime.torch_state import seeded
from cirbench.benchmark.scoring import bootstrap
from cirbench.benchmark.scoring.summary import averages_of, depth, score, summarise


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def run(plan: Plan, reporter: Reporter) -> Iterator[Record]:
    """Runs every method of a plan, and stores a record as soon as each is done.

    Raises:
        UsageError, MissingData, CorruptData: as their classes say; records already given are kept.
    """
    check_writable(plan.output)
    request = plan.request
    if request.allow_missing:
        plan = without_unreadable(plan, reporter)
    clock = Clock()
    with clock.stage("load"):
        # weights first: a file that is damaged is told before a backbone is fetched
        checkpoints = [
            read_checkpoint(method.checkpoint) if method.checkpoint else None
            for method in plan.methods
        ]
        backbone = plan.loaded or load_backbone(
            plan.backbone, device=plan.device, precision=request.precision
        )
        methods = [
            (build_method(method, backbone, checkpoint, request.seed), checkpoint)
            for method, checkpoint in zip(plan.methods, checkpoints, strict=True)
        ]
    with clock.stage("embed"):
        [images] = embed(plan, [backbone], reporter)
    texts = TextFeatures(
        backbone=backbone,
        truncate=plan.protocol.overlong_text == "truncate",
        mode=Mode(request.cache),
    )
    gallery = _unit_gallery(images.of(plan.data.gallery)).to(plan.device)
    for remark in backbone.remarks:
        reporter.say(remark)
    for method, checkpoint in methods:
        for remark in method.remarks:
            reporter.say(f"{method.name}: {remark}")
        cell_clock = Clock(dict(clock.seconds))
        own_texts = texts.of_method(checkpoint.sha256 if checkpoint else None)
        ranking = _rank_method(plan, method, images, own_texts, gallery, cell_clock, reporter)
        with cell_clock.stage("score"):
            per_query = score(plan.data, ranking, plan.protocol)
            cell = _cell(plan, backbone, method, checkpoint)
            body = _record_body(
                plan, backbone, checkpoint, images, own_texts, per_query, cell_clock
            )
            if checkpoint:
                body["checkpoint"] = {"name": checkpoint.path.name}
            body["method"] = {"zero_shot": method.zero_shot, "remarks": list(method.remarks)}
            if not plan.data.labelled:
                files = plan.task.submission(plan.data, per_query)
                body["submission"] = write_submission(plan.output / cell.path, files)
        yield write_record(plan.output, cell, body, per_query)


def build_method(
    method: PlannedMethod, backbone: Backbone, checkpoint: Checkpoint | None, seed: int
) -> Method:
    """Make a method ready; what it draws at random depends on the seed alone."""
    with seeded(seed, backbone.device):
        return method.load().build(backbone=backbone, checkpoint=checkpoint)


def embed(plan: Plan, backbones: Sequence[Backbone], reporter: Reporter) -> list[ImageFeatures]:
    """Every picture of gallery and queries by each backbone, from the store as far as it has them.

    Each is decoded once for all backbones.
    """
    request, refs = plan.request, list(plan.data.pictures.values())
    with reporter.stage("images", len(refs)) as stage:
        embedders = [
            Embedder(
                backbone=backbone,
                preprocess=plan.protocol.preprocess,
                size=BatchSize(value=request.batch_size),
                workers=request.workers,
                stage=stage,
            )
            for backbone in backbones
        ]
        return embed_with(embedders, refs, Mode(request.cache), reporter)


def _unit_gallery(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=1)


def _rank_method(
    plan: Plan,
    method: Method,
    images: ImageFeatures,
    texts: TextFeatures,
    gallery: Tensor,
    clock: Clock,
    reporter: Reporter,
) -> Ranking:
    queries = plan.data.queries
    size = BatchSize(value=plan.request.batch_size)
    with clock.stage("compose"), reporter.stage(method.name, len(queries)) as stage:
        with seeded(plan.request.seed, texts.backbone.device):
            vectors = compose(method, queries, plan.protocol, images, texts, size=size, stage=stage)
        texts.flush()
    with clock.stage("rank"), torch.inference_mode():
        return rank_queries(plan.data, vectors.to(gallery.device), gallery, depth(plan.protocol))


def _cell(plan: Plan, backbone: Backbone, method: Method, checkpoint: Checkpoint | None) -> Cell:
    return Cell(
        method=method.name,
        trained_on=method.trained_on,
        task=plan.task.name,
        split=plan.split,
        protocol=f"{plan.protocol.name}@{plan.protocol.hash}",
        backbone=backbone.name,
        checkpoint=checkpoint.sha256 if checkpoint else None,
        seed=plan.request.seed,
        label=plan.request.label,
    )


def _record_body(
    plan: Plan,
    backbone: Backbone,
    checkpoint: Checkpoint | None,
    images: ImageFeatures,
    texts: TextFeatures,
    per_query: PerQuery,
    clock: Clock,
) -> dict[str, Any]:
    data, request = plan.data, plan.request
    averages = averages_of(data.groups, plan.protocol)
    metrics = summarise(per_query, data.groups, averages) if data.labelled else {}
    return {
        "metrics": {
            group: {name: asdict(value) for name, value in values.items()}
            for group, values in metrics.items()
        },
        "groups": list(data.groups),
        "protocol": {**plan.protocol.as_dict(), "hash": plan.protocol.hash},
        "bootstrap": {
            "resamples": bootstrap.RESAMPLES,
            "seed": bootstrap.SEED,
            "level": bootstrap.LEVEL,
            "cluster": "reference",
        },
        "counts": {
            "queries": len(data.queries),
            "references": len({query.reference.id for query in data.queries}),
            "gallery": len(data.gallery),
            "missing": len(data.missing),
            "queries_without_positives": int((per_query.positives == 0).sum()),
            "tied_queries": int(per_query.tied.sum()),
            "fragile_queries": int(per_query.fragile.sum()),
            "pictures": len(data.pictures),
            "image_passes": images.passes,
        },
        "fingerprints": {
            "weights": backbone.weights_sha256,
            "tokenizer": backbone.tokenizer_sha256,
            "preprocess": backbone.image_spec.fingerprint(plan.protocol.preprocess),
            "checkpoint": checkpoint.sha256 if checkpoint else None,
            "annotations": data.annotations_sha256,
            "gallery": images.fingerprint(data.gallery),
            "references": images.fingerprint([query.reference for query in data.queries]),
        },
        "annotations": {
            "released": plan.released,
            "files": dict(data.annotations),
            "remarks": [*data.remarks, *backbone.remarks, *images.remarks, *texts.remarks],
        },
        "run": {
            "partial": plan.partial,
            "limit": request.limit,
            "precision": request.precision,
            "device": plan.device,
            "batch_size": images.batch_size,
            "cache": request.cache,
            "workers": request.workers,
            "threads": torch.get_num_threads(),
            "imported_rows": images.imported + texts.imported,
            "preprocess": {"name": plan.protocol.preprocess, **backbone.image_spec.as_dict()},
            "seconds": clock.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        },
        "environment": environment(plan.device),
    }
