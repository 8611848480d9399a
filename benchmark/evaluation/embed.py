"""The pictures of a plan: embedded for its run, or a share of them for a later one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.values import ImageRef, Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.pictures import (
    BatchSize,
    Embedder,
    ImageFeatures,
    Stored,
    embed_with,
    store_share,
)
from cirbench.benchmark.embedding.share import Share
from cirbench.benchmark.evaluation.plan import Plan, Request, plan, without_unreadable
from cirbench.benchmark.runtime.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """Pictures that are prepared in one way, and what they are called."""

    what: str
    refs: Sequence[ImageRef]
    preprocess: str


def _list_passes(plan: Plan) -> list[_Pass]:
    protocol, pictures = plan.protocol, list(plan.data.pictures.values())
    passes = [_Pass(what="images", refs=pictures, preprocess=protocol.preprocess)]
    if protocol.reference_preprocess:
        refs = {query.reference.id: query.reference for query in plan.data.queries}
        how = protocol.reference_preprocess
        passes.append(_Pass(what="references", refs=list(refs.values()), preprocess=how))
    return passes


def embed(plan: Plan, backbones: Sequence[Backbone], reporter: Reporter) -> list[ImageFeatures]:
    """Every picture of gallery and queries by each backbone, from the store as far as it has them.

    Each is decoded once for all backbones, and a reference twice where the protocol prepares
    references in another way.
    """
    mode, found = Mode(plan.request.cache), []
    for each in _list_passes(plan):
        with _prepare(plan, backbones, each, len(each.refs), reporter) as embedders:
            found.append(embed_with(embedders, each.refs, mode, reporter))
    images, *references = found
    if not references:
        return images
    return [
        replace(
            found,
            batch_size=min(found.batch_size, own.batch_size),
            passes=found.passes + own.passes,
            imported=found.imported + own.imported,
            references=own,
        )
        for found, own in zip(images, *references, strict=True)
    ]


def embed_share(
    plan: Plan, backbones: Sequence[Backbone], share: Share, reporter: Reporter
) -> Stored:
    """Embed a share of the pictures of gallery and queries into the store, and give what it is.

    Raises:
        UsageError: there are fewer pictures than shares.
    """
    share.check(plan.pictures)
    mode, done = Mode(plan.request.cache), Stored(spaces=(), passes=0)
    for each in _list_passes(plan):
        total = share.count_own(len(each.refs))
        with _prepare(plan, backbones, each, total, reporter) as embedders:
            own = store_share(embedders, each.refs, mode, reporter, share)
        done = Stored(spaces=(*done.spaces, *own.spaces), passes=done.passes + own.passes)
    return done


def embed_request(request: Mapping[str, Any], reporter: Reporter) -> Stored:
    """Embed what another process asks for, as JSON has it: a request, a shard, more backbones."""
    more = {"more_backbones", "shard"}
    made = plan(Request.parse({k: v for k, v in request.items() if k not in more}))
    if made.request.allow_missing:
        made = without_unreadable(made, reporter)
    names = [made.backbone, *request.get("more_backbones", [])]
    precision = made.request.precision
    backbones = [load_backbone(name, device=made.device, precision=precision) for name in names]
    return embed_share(made, backbones, Share.parse(request.get("shard", "1/1")), reporter)


@contextmanager
def _prepare(
    plan: Plan, backbones: Sequence[Backbone], each: _Pass, total: int, reporter: Reporter
) -> Iterator[list[Embedder]]:
    request = plan.request
    with reporter.stage(each.what, total) as stage:
        yield [
            Embedder(
                backbone=backbone,
                preprocess=each.preprocess,
                size=BatchSize(value=request.batch_size),
                workers=request.workers,
                stage=stage,
            )
            for backbone in backbones
        ]
