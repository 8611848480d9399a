"""From what an evaluation found out to its record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.embedding.pictures import ImageFeatures
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.plan import Plan
from cirbench.benchmark.evaluation.weights import name_start
from cirbench.benchmark.records import fields
from cirbench.benchmark.records.fields import Body, Cell
from cirbench.benchmark.runtime.provenance import describe_environment, read_peak_memory_bytes
from cirbench.benchmark.scoring import bootstrap
from cirbench.benchmark.scoring.summary import summarise


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def describe_bootstrap() -> fields.Bootstrap:
    """How every record's intervals are made."""
    return fields.Bootstrap(
        resamples=bootstrap.RESAMPLES,
        seed=bootstrap.SEED,
        level=bootstrap.LEVEL,
        cluster="reference",
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The evaluation of one method: all that its record is made of."""

    plan: Plan
    backbone: Backbone
    method: Method
    checkpoint: Checkpoint | None
    images: ImageFeatures
    texts: TextFeatures
    per_query: PerQuery
    clock: Clock

    def make_cell(self) -> Cell:
        """Name what the record is the record of."""
        plan = self.plan
        return Cell(
            method=self.method.name,
            trained_on=self.method.trained_on,
            task=plan.task.name,
            split=plan.split,
            protocol=f"{plan.protocol.name}@{plan.protocol.hash}",
            backbone=self.backbone.name,
            checkpoint=self.checkpoint.sha256 if self.checkpoint else None,
            seed=plan.request.seed,
            label=plan.request.label,
        )

    def make_body(self) -> Body:
        """Make the record, besides its per-query data, from what was found."""
        plan, data = self.plan, self.plan.data
        return Body(
            cell=self.make_cell(),
            method=fields.MethodFacts(
                zero_shot=self.method.zero_shot, remarks=tuple(self.method.remarks)
            ),
            metrics=summarise(self.per_query, data.groups, plan.protocol) if data.labelled else {},
            groups=tuple(data.groups),
            protocol=plan.protocol,
            bootstrap=describe_bootstrap(),
            counts=self._count(),
            fingerprints=self._fingerprint(),
            annotations=fields.Annotations(
                released=plan.released,
                files=data.annotations,
                remarks=(
                    *data.remarks,
                    *self.backbone.remarks,
                    *self.images.remarks,
                    *self.texts.remarks,
                ),
            ),
            run=self._describe_run(),
            environment=describe_environment(plan.device),
            checkpoint=self._describe_checkpoint(),
            made=plan.made,
        )

    def _count(self) -> fields.Counts:
        data, arrays = self.plan.data, self.per_query
        return fields.Counts(
            queries=len(data.queries),
            references=len({query.reference.id for query in data.queries}),
            gallery=len(data.gallery),
            missing=len(data.missing),
            queries_without_positives=int((arrays.positives == 0).sum()),
            tied_queries=int(arrays.tied.sum()),
            fragile_queries=int(arrays.fragile.sum()),
            pictures=len(data.pictures),
            image_passes=self.images.passes,
        )

    def _fingerprint(self) -> fields.Fingerprints:
        data, backbone = self.plan.data, self.backbone
        return fields.Fingerprints(
            weights=backbone.weights_sha256,
            tokenizer=backbone.tokenizer_sha256,
            preprocess=backbone.image_spec.fingerprint(self.plan.protocol.preprocess),
            checkpoint=self.checkpoint.sha256 if self.checkpoint else None,
            annotations=data.annotations_sha256,
            gallery=self.images.fingerprint(data.gallery),
            references=self.images.fingerprint([query.reference for query in data.queries]),
        )

    def _describe_run(self) -> fields.Run:
        plan, request = self.plan, self.plan.request
        spec = self.backbone.image_spec.as_dict()
        return fields.Run(
            partial=plan.partial,
            limit=request.limit,
            precision=request.precision,
            device=plan.device,
            batch_size=self.images.batch_size,
            cache=request.cache,
            workers=request.workers,
            threads=torch.get_num_threads(),
            imported_rows=self.images.imported + self.texts.imported,
            preprocess={"name": plan.protocol.preprocess, **spec},
            seconds=self.clock.seconds,  # to which a stage adds its own when it ends
            peak_memory_bytes=read_peak_memory_bytes(),
        )

    def _describe_checkpoint(self) -> fields.CheckpointFile | None:
        file = self.checkpoint
        if file is None:
            return None
        return fields.CheckpointFile(
            name=file.path.name,
            backbone=name_start(file.provenance),
            released=file.released.file if file.released else None,
        )
