"""The one way from methods and a task to records: embed once, then compose, rank, score each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method
from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.pictures import BatchSize, ImageFeatures
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import compose
from cirbench.benchmark.evaluation.devices import embed_on_each
from cirbench.benchmark.evaluation.embed import embed
from cirbench.benchmark.evaluation.plan import Plan, PlannedMethod, without_unreadable
from cirbench.benchmark.evaluation.record import Clock, Outcome
from cirbench.benchmark.evaluation.released import read_weights
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.ranking.rank import Ranking
from cirbench.benchmark.records.fields import Body
from cirbench.benchmark.records.record import (
    Record,
    check_writable,
    write_record,
    write_submission,
)
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import seeded
from cirbench.benchmark.scoring.summary import find_depth, score


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
            read_weights(method.checkpoint, reporter) if method.checkpoint else None
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
        images = _embed(plan, backbone, reporter)
    texts = TextFeatures(
        backbone=backbone,
        truncate=plan.protocol.overlong_text == "truncate",
        mode=Mode(request.cache),
    )
    for remark in backbone.remarks:
        reporter.say(remark)
    for method, checkpoint in methods:
        for remark in method.remarks:
            reporter.say(f"{method.name}: {remark}")
        cell_clock = Clock(dict(clock.seconds))
        own_texts = texts.for_method(checkpoint.sha256 if checkpoint else None)
        ranking = _rank_method(plan, method, images, own_texts, cell_clock, reporter)
        with cell_clock.stage("score"):
            outcome = Outcome(
                plan=plan,
                backbone=backbone,
                method=method,
                checkpoint=checkpoint,
                images=images,
                texts=own_texts,
                per_query=score(plan.data, ranking, plan.protocol),
                clock=cell_clock,
            )
            body = _write_submission(outcome, outcome.make_body())
        yield write_record(plan.output, body, outcome.per_query)


def _embed(plan: Plan, backbone: Backbone, reporter: Reporter) -> ImageFeatures:
    """Embed on the plan's devices."""
    if len(plan.devices) == 1:
        return embed(plan, [backbone], reporter)[0]
    stored = embed_on_each(plan, reporter)
    warm = replace(plan, request=replace(plan.request, cache=Mode.USE))
    [images] = embed(warm, [backbone], reporter)
    return replace(images, passes=images.passes + stored.passes)


def _write_submission(outcome: Outcome, body: Body) -> Body:
    """Write what the task's server takes, where the labels are not public, and name it."""
    plan = outcome.plan
    if plan.data.labelled:
        return body
    files = plan.task.submission(plan.data, outcome.per_query)
    return replace(body, submission=tuple(write_submission(plan.output / body.home, files)))


def build_method(
    method: PlannedMethod, backbone: Backbone, checkpoint: Checkpoint | None, seed: int
) -> Method:
    """Make a method ready; what it draws at random depends on the seed alone."""
    with seeded(seed, backbone.device):
        built = method.load().build(backbone=backbone, checkpoint=checkpoint)
    if checkpoint and checkpoint.released and checkpoint.released.caveat:
        remark = f"{checkpoint.released.file}: {checkpoint.released.caveat}"
        built.remarks = (*built.remarks, remark)
    return built


def make_gallery(method: Method, features: Tensor, device: str) -> Tensor:
    """(N, C) embeddings of a gallery on the CPU → (N, D), as the method wants them ranked."""
    if type(method).gallery is not Method.gallery:
        return method.gallery(features.to(device))  # where its weights are
    vectors = method.gallery(features)
    # from there ranking copies to a GPU, a part at a time
    return vectors.pin_memory() if device.startswith("cuda") else vectors


def _rank_method(
    plan: Plan,
    method: Method,
    images: ImageFeatures,
    texts: TextFeatures,
    clock: Clock,
    reporter: Reporter,
) -> Ranking:
    request, queries = plan.request, plan.data.queries
    with clock.stage("compose"), reporter.stage(method.name, len(queries)) as stage:
        with seeded(request.seed, texts.backbone.device):
            vectors = compose(
                method,
                queries,
                plan.protocol,
                images,
                texts,
                size=BatchSize(value=request.batch_size),
                workers=request.workers,
                stage=stage,
            )
        texts.flush()
    with clock.stage("rank"), torch.inference_mode():
        where, depth = plan.ranking_device, find_depth(plan.protocol)
        gallery = make_gallery(method, images.of(plan.data.gallery), plan.device)
        if where == "cpu":
            gallery = gallery.cpu()
        return rank_queries(plan.data, vectors.to(where), gallery, depth, method.own_score)
