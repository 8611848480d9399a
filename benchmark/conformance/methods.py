"""The contract of a method, tried on a few queries of the embedded task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.api.values import Query, TaskData
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.conformance.rules import Finding, Rules, try_rules
from cirbench.benchmark.data.subsets import limit_queries
from cirbench.benchmark.embedding.pictures import (
    BatchSize,
    Embedder,
    ImageFeatures,
    embed_images,
)
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import QueryBatch
from cirbench.benchmark.evaluation.plan import Request, plan_methods
from cirbench.benchmark.evaluation.released import read_weights
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import seeded

_TASK, _QUERIES_A_GROUP = "emoji", 6
_SAME = 1e-4
"""How far apart two unit vectors of one query may be: batches of other sizes round otherwise."""


@dataclass(frozen=True, kw_only=True)
class MethodTrial:
    """A method that is ready, and what it is tried on."""

    method: Method
    protocol: EvaluationProtocol
    data: TaskData
    images: ImageFeatures
    texts: TextFeatures

    def compose(self, queries: Sequence[Query]) -> Tensor:
        """(Q, C) as the method gives it."""
        features = self.images.of_references([query.reference for query in queries])
        batch = QueryBatch(
            protocol=self.protocol,
            queries=queries,
            reference_features=features.to(self.texts.backbone.device),
            encoder=self.texts,
        )
        with torch.inference_mode(), seeded(0, self.texts.backbone.device):
            return self.method.compose(batch)

    def rank(self, data: TaskData) -> list[int]:
        """The rank of each query's best positive."""
        vectors, gallery = self.compose(data.queries).float().cpu(), self.make_gallery(data)
        found = rank_queries(data, vectors, gallery, 1, self.method.own_score)
        ranks: list[int] = found.first_rank.tolist()
        return ranks

    def make_gallery(self, data: TaskData) -> Tensor:
        """(N, D) as the method wants it ranked."""
        with torch.inference_mode():
            return self.method.gallery(self.images.of(data.gallery))


def inspect_method(
    method: str | type[Method], *, backbone: str = "fake", checkpoint: Path | None = None
) -> list[Finding]:
    """Try a method's contract on a backbone.

    Args:
        method: its name, or a class of one's own.
        checkpoint: its weights; default: those that are shipped for the backbone.

    Raises:
        UsageError, MissingData, CorruptData: it can't be made ready at all.
    """
    return try_rules(METHOD_RULES, _make_trial(method, backbone, checkpoint))


def _make_trial(method: str | type[Method], backbone: str, weights: Path | None) -> MethodTrial:
    task = find_task(_TASK)()
    protocol = next(iter(task.protocols.values()))
    data = task.load(protocol=protocol, split=task.splits[0], data_root=None)
    data = limit_queries(data, _QUERIES_A_GROUP)
    name = method if isinstance(method, str) else method.name
    request = Request(methods=(method,), task=_TASK, checkpoints={name: weights} if weights else {})
    [planned] = plan_methods(request, backbone)
    checkpoint = read_weights(planned.checkpoint, None) if planned.checkpoint else None
    towers = load_backbone(backbone)
    with Reporter(quiet=True).stage("images", len(data.pictures)) as stage:
        embedder = Embedder(
            backbone=towers,
            preprocess=protocol.preprocess,
            size=BatchSize(value=64),
            workers=1,
            stage=stage,
        )
        images = embed_images(embedder, list(data.pictures.values()))
    return MethodTrial(
        method=planned.load().build(backbone=towers, checkpoint=checkpoint),
        protocol=protocol,
        data=data,
        images=images,
        texts=TextFeatures(backbone=towers, truncate=protocol.overlong_text == "truncate"),
    )


def _gives_vectors(trial: MethodTrial) -> str | None:
    queries = trial.data.queries
    found = trial.compose(queries)
    wanted: tuple[int, ...] = (len(queries), trial.make_gallery(trial.data).shape[1])
    if trial.method.own_score and isinstance(found, Tensor):  # which takes any shape
        wanted = (len(queries), *found.shape[1:])
    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        return f"compose must give a float32 tensor, got {getattr(found, 'dtype', type(found))}"
    if tuple(found.shape) != wanted:
        return f"compose must give {wanted} for {wanted[0]} queries, got {tuple(found.shape)}"
    return None


def _gives_unit_vectors(trial: MethodTrial) -> str | None:
    found = trial.compose(trial.data.queries)
    if trial.method.own_score:
        return None if found.isfinite().all() else "vectors must be finite"
    lengths = found.norm(dim=-1)
    off = (lengths - 1).abs().max().item()
    return None if off < _SAME else f"vectors must have length 1, one is off by {off:.2g}"


def _scores_each_picture(trial: MethodTrial) -> str | None:
    score, gallery = trial.method.score, trial.make_gallery(trial.data)
    queries = trial.compose(trial.data.queries).float().cpu()
    with torch.inference_mode():
        found = score(queries, gallery)
        alone = torch.cat([score(query[None], gallery) for query in queries])
        parts = torch.cat([score(queries, part) for part in gallery.tensor_split(2)], dim=1)
    wanted = (len(queries), len(gallery))
    if tuple(found.shape) != wanted:
        return f"score must give {wanted} for so many queries and pictures, got {found.shape}"
    off = max((other - found).abs().max().item() for other in (alone, parts))
    return None if off < _SAME else f"a score must not depend on others, off by {off:.2g}"


def _is_deterministic(trial: MethodTrial) -> str | None:
    queries = trial.data.queries
    same = torch.equal(trial.compose(queries), trial.compose(queries))
    return None if same else "the same queries must give the same vectors"


def _ignores_batches(trial: MethodTrial) -> str | None:
    queries = trial.data.queries
    alone = torch.cat([trial.compose([query]) for query in queries])
    return _compare(alone, trial.compose(queries), "alone and in a batch")


def _ignores_query_order(trial: MethodTrial) -> str | None:
    queries = trial.data.queries
    turned = trial.compose(queries[::-1]).flip(0)
    return _compare(turned, trial.compose(queries), "in another order of queries")


def _compare(found: Tensor, wanted: Tensor, where: str) -> str | None:
    off = (found - wanted).abs().max().item()
    return None if off < _SAME else f"a query's vector must be the same {where}, off by {off:.2g}"


def _ignores_gallery_order(trial: MethodTrial) -> str | None:
    data, last = trial.data, len(trial.data.gallery) - 1

    def turn(query: Query) -> Query:
        positives = tuple(last - row for row in query.positives)
        removed = None if query.removed is None else last - query.removed
        return replace(query, positives=positives, removed=removed)

    turned = replace(data, gallery=data.gallery[::-1], queries=tuple(map(turn, data.queries)))
    same = trial.rank(data) == trial.rank(turned)
    return None if same else "ranks must be the same whatever the gallery's order"


def _says_what_it_is(trial: MethodTrial) -> str | None:
    method = trial.method
    if not isinstance(method.name, str) or not method.name:
        return f"name must be a text, got {method.name!r}"
    if method.needs_checkpoint and not method.trained_on:
        return "a method with weights must say what they were trained on (trained_on)"
    return None


METHOD_RULES: Rules[MethodTrial] = {
    "names itself": _says_what_it_is,
    "gives one float32 vector a query": _gives_vectors,
    "gives unit vectors": _gives_unit_vectors,
    "scores each picture by itself": _scores_each_picture,
    "is deterministic": _is_deterministic,
    "does not depend on the batch": _ignores_batches,
    "does not depend on the order of queries": _ignores_query_order,
    "does not depend on the order of the gallery": _ignores_gallery_order,
}
