"""The one way from methods and a task to records: embed once, then compose, rank, score each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from cirbench.benchmark import bootstrap
from cirbench.benchmark.backbones import load_backbone
from cirbench.benchmark.checkpoints import Checkpoint, read_checkpoint
from cirbench.benchmark.compose import TextFeatures, compose
from cirbench.benchmark.embed import BatchSize, ImageFeatures, embed_images
from cirbench.benchmark.errors import MissingData, UsageError
from cirbench.benchmark.interfaces import Backbone, Method, Task, TaskData
from cirbench.benchmark.preprocess import preprocess
from cirbench.benchmark.progress import Reporter
from cirbench.benchmark.protocol import EvaluationProtocol
from cirbench.benchmark.provenance import environment, peak_memory_bytes
from cirbench.benchmark.ranking import Ranking, dot_product, rank
from cirbench.benchmark.records import Cell, PerQuery, Record, check_writable, write_record
from cirbench.benchmark.registry import find_method, find_task
from cirbench.benchmark.scoring import averages_of, depth, score, summarise
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for; None means the task's or the machine's own default."""

    methods: tuple[str, ...]
    task: str
    split: str | None = None
    protocol: str | None = None
    backbone: str | None = None
    checkpoint: Path | None = None
    data_root: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int = 64
    workers: int = 2
    seed: int = 0
    limit: int | None = None
    output: Path = Path("results")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with every default filled in and the annotations read; no picture opened."""

    request: Request
    task: Task
    split: str
    protocol: EvaluationProtocol
    backbone: str
    device: str
    data: TaskData

    @property
    def image_passes(self) -> int:
        """How many distinct pictures the image tower sees."""
        refs = [*self.data.gallery, *(query.reference for query in self.data.queries)]
        return len({ref.id for ref in refs})

    @property
    def output(self) -> Path:
        """Where records go; partial ones never among the others."""
        folder = self.request.output
        return folder if self.request.limit is None else folder.with_name(f"{folder.name}-partial")


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def choose_device(name: str) -> str:
    """`auto` is the first GPU where there is one.

    Raises:
        UsageError: CUDA is asked for and can't be used.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} can't be used ({str(error).splitlines()[0]}); try --device auto"
        ) from error
    return name


def plan(request: Request) -> Plan:
    """Fills in the defaults, reads the annotations, and finds every mistake that can be found yet.

    Raises:
        UsageError, MissingData, CorruptData: as their classes say.
    """
    task: Task = find_task(request.task)()
    classes: list[type[Method]] = [find_method(name) for name in request.methods]
    backbone = request.backbone or task.default_backbone
    for method in classes:
        _checkpoint_path(method, backbone, request.checkpoint)
    split = _choice("split", request.split, task.splits)
    protocol = task.protocols[_choice("protocol", request.protocol, tuple(task.protocols))]
    data = task.load(protocol=protocol, split=split, data_root=request.data_root)
    if not data.gallery or not data.queries:
        raise MissingData(
            f"task {task.name}, split {split}: {len(data.gallery)} gallery images and "
            f"{len(data.queries)} queries; check --data-root"
        )
    if request.limit is not None:
        data = limited(data, request.limit)
    return Plan(
        request=request, task=task, split=split, protocol=protocol, backbone=backbone,
        device=choose_device(request.device), data=data,
    )  # fmt: skip


def _choice(kind: str, wanted: str | None, known: Sequence[str]) -> str:
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise UsageError(f"unknown {kind} {wanted!r}; known: {', '.join(known)}")
    return wanted


def limited(data: TaskData, limit: int) -> TaskData:
    """The first `limit` queries of each group, over the pictures that these need."""
    taken: dict[str, int] = {}
    queries = []
    for query in data.queries:
        taken[query.group] = taken.get(query.group, 0) + 1
        if taken[query.group] <= limit:
            queries.append(query)
    references = {query.reference.id for query in queries}
    positives = {row for query in queries for row in query.positives}
    kept = [row for row, ref in enumerate(data.gallery) if row in positives or ref.id in references]
    new_row = {row: i for i, row in enumerate(kept)}
    return replace(
        data,
        gallery=tuple(data.gallery[row] for row in kept),
        queries=tuple(
            replace(
                query,
                positives=tuple(new_row[row] for row in query.positives),
                removed=None if query.removed is None else new_row.get(query.removed),
            )
            for query in queries
        ),
    )


def run(plan: Plan, reporter: Reporter) -> Iterator[Record]:
    """Runs every method of a plan, and stores a record as soon as each is done.

    Raises:
        UsageError, MissingData, CorruptData: as their classes say; records already given are kept.
    """
    check_writable(plan.output)
    request = plan.request
    torch.manual_seed(request.seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    clock = Clock()
    with clock.stage("load"):
        backbone = load_backbone(plan.backbone, device=plan.device, precision=request.precision)
        methods = [load_method(find_method(name), backbone, plan) for name in request.methods]
    with clock.stage("embed"):
        images = _embed(plan, backbone, reporter)
    texts = TextFeatures(backbone=backbone, truncate=plan.protocol.overlong_text == "truncate")
    gallery = _unit_gallery(images.of(plan.data.gallery)).to(plan.device)
    for method, checkpoint in methods:
        cell_clock = Clock(dict(clock.seconds))
        ranking = _rank_method(plan, method, images, texts, gallery, cell_clock, reporter)
        with cell_clock.stage("score"):
            per_query = score(plan.data, ranking, plan.protocol)
            cell = _cell(plan, method, checkpoint)
            body = _record_body(plan, backbone, checkpoint, images, per_query, cell_clock)
        yield write_record(plan.output, cell, body, per_query)


def _checkpoint_path(method: type[Method], backbone: str, wanted: Path | None) -> Path | None:
    if not method.needs_checkpoint:
        return None
    if wanted is not None:
        return wanted
    if backbone not in method.shipped_checkpoints:
        shipped = ", ".join(method.shipped_checkpoints) or "no backbone"
        raise MissingData(
            f"{method.name} needs --checkpoint for the backbone {backbone} "
            f"(one is shipped for {shipped}); bench train {method.name} --help makes one"
        )
    return Path(str(files("cirbench.methods") / "weights" / method.shipped_checkpoints[backbone]))


def load_method(
    method: type[Method], backbone: Backbone, plan: Plan
) -> tuple[Method, Checkpoint | None]:
    """The method with its weights, shipped ones or those asked for."""
    path = _checkpoint_path(method, plan.backbone, plan.request.checkpoint)
    checkpoint = read_checkpoint(path) if path else None
    return method.build(backbone=backbone, checkpoint=checkpoint), checkpoint


def _embed(plan: Plan, backbone: Backbone, reporter: Reporter) -> ImageFeatures:
    with reporter.stage("images", plan.image_passes) as stage:
        return embed_images(
            backbone,
            [*plan.data.gallery, *(query.reference for query in plan.data.queries)],
            preprocess(plan.protocol.preprocess, backbone.image_spec),
            batch_size=plan.request.batch_size,
            workers=plan.request.workers,
            stage=stage,
        )


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
        vectors = compose(method, queries, plan.protocol, images, texts, size=size, stage=stage)
    with clock.stage("rank"), torch.inference_mode():
        return rank(
            dot_product(vectors.to(gallery.device), gallery),
            [query.positives for query in queries],
            len(gallery),
            depth=depth(plan.protocol),
            removed=[query.removed for query in queries],
        )


def _cell(plan: Plan, method: Method, checkpoint: Checkpoint | None) -> Cell:
    return Cell(
        method=method.name,
        trained_on=method.trained_on,
        task=plan.task.name,
        split=plan.split,
        protocol=f"{plan.protocol.name}@{plan.protocol.hash}",
        backbone=plan.backbone,
        checkpoint=checkpoint.sha256 if checkpoint else None,
        seed=plan.request.seed,
    )


def _record_body(
    plan: Plan,
    backbone: Backbone,
    checkpoint: Checkpoint | None,
    images: ImageFeatures,
    per_query: PerQuery,
    clock: Clock,
) -> dict[str, Any]:
    data, request = plan.data, plan.request
    metrics = summarise(per_query, data.groups, averages_of(data.groups, plan.protocol))
    return {
        "metrics": {
            group: {name: asdict(value) for name, value in values.items()}
            for group, values in metrics.items()
        },
        "groups": list(data.groups),
        "protocol": {**plan.protocol.as_dict(), "hash": plan.protocol.hash},
        "bootstrap": {
            "resamples": bootstrap.RESAMPLES, "seed": bootstrap.SEED, "level": bootstrap.LEVEL,
            "cluster": "reference",
        },
        "counts": {
            "queries": len(data.queries),
            "references": len({query.reference.id for query in data.queries}),
            "gallery": len(data.gallery),
            "missing": 0,
            "queries_without_positives": int((per_query.positives == 0).sum()),
            "tied_queries": int(per_query.tied.sum()),
            "image_passes": plan.image_passes,
        },
        "fingerprints": {
            "weights": backbone.weights_sha256,
            "preprocess": backbone.image_spec.fingerprint(plan.protocol.preprocess),
            "checkpoint": checkpoint.sha256 if checkpoint else None,
            "annotations": data.annotations_sha256,
            "gallery": images.fingerprint(data.gallery),
            "references": images.fingerprint([query.reference for query in data.queries]),
        },
        "run": {
            "partial": request.limit is not None,
            "limit": request.limit,
            "precision": request.precision,
            "device": plan.device,
            "batch_size": images.batch_size,
            "workers": request.workers,
            "preprocess": {"name": plan.protocol.preprocess, **backbone.image_spec.as_dict()},
            "seconds": clock.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        },
        "environment": environment(plan.device),
    }  # fmt: skip
