"""The record of an import: as an evaluation's, without a backbone, and with what made it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from cirbench.benchmark.embedding.contents import ContentHashes, fingerprint_pictures
from cirbench.benchmark.evaluation.plan import IMPORTED, Plan
from cirbench.benchmark.evaluation.record import Clock, describe_bootstrap
from cirbench.benchmark.ranking.rank import Ranking
from cirbench.benchmark.records import fields
from cirbench.benchmark.records.record import Record, write_record
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.kept import find_cache_root
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.provenance import describe_environment, read_peak_memory_bytes
from cirbench.benchmark.scoring.summary import score, summarise

NO_PICTURES = "the pictures were not there, so the gallery is known by its names alone"


@dataclass(frozen=True, kw_only=True)
class ImportOutcome:
    """What an import came to.

    Attributes:
        plan: its protocol has the metrics that can be taken.
        method: what tables call it.
        source: the files, and who made them.
        remarks: what a reader of the numbers should know of the files.
    """

    plan: Plan
    method: str
    source: fields.Imported
    ranking: Ranking
    remarks: tuple[str, ...]
    clock: Clock

    def write(self, reporter: Reporter) -> Record:
        """Score and store it."""
        plan, data = self.plan, self.plan.data
        with self.clock.stage("score"):
            arrays = score(data, self.ranking, plan.protocol)
            metrics = summarise(arrays, data.groups, plan.protocol) if data.labelled else {}
        gallery, references, told = self._fingerprint_pictures(reporter)
        digest = self._hash_files()
        body = fields.Body(
            cell=fields.Cell(
                method=self.method,
                trained_on=None,
                task=plan.task.name,
                split=plan.split,
                protocol=f"{plan.protocol.name}@{plan.protocol.hash}",
                backbone=IMPORTED,
                checkpoint=digest,
                seed=0,
                label=self.source.producer,
            ),
            # whether triplets were seen is not known; tables say "imported" in place of it
            method=fields.MethodFacts(zero_shot=False, remarks=(*self.remarks, *told)),
            metrics=metrics,
            groups=tuple(data.groups),
            protocol=plan.protocol,
            bootstrap=describe_bootstrap(),
            counts=fields.Counts(
                queries=len(data.queries),
                references=len({query.reference.id for query in data.queries}),
                gallery=len(data.gallery),
                missing=0,
                queries_without_positives=int((arrays.positives == 0).sum()),
                tied_queries=int(arrays.tied.sum()),
                fragile_queries=int(arrays.fragile.sum()),
                pictures=len(data.pictures),
                image_passes=0,
            ),
            fingerprints=fields.Fingerprints(
                gallery=gallery,
                annotations=data.annotations_sha256,
                references=references,
                weights=IMPORTED,
                preprocess=IMPORTED,
                checkpoint=digest,
            ),
            annotations=fields.Annotations(
                released=plan.released, files=data.annotations, remarks=data.remarks
            ),
            run=fields.Run(
                partial=False,
                limit=None,
                precision="fp32",
                device=plan.device,
                batch_size=1,
                cache="off",
                workers=plan.request.workers,
                preprocess={},
                seconds=self.clock.seconds,
                peak_memory_bytes=read_peak_memory_bytes(),
            ),
            environment=describe_environment(plan.device),
            made=plan.made,
            imported=self.source,
        )
        return write_record(plan.output, body, arrays)

    def _hash_files(self) -> str:
        """The sha256 of the file, or of the sums of several."""
        sums = sorted(self.source.files.values())
        return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()

    def _fingerprint_pictures(self, reporter: Reporter) -> tuple[str, str, tuple[str, ...]]:
        """Of gallery and references: by their contents as an evaluation has them, so that boards
        hold both; by their names where the pictures are not there."""
        data = self.plan.data
        refs = list(data.pictures.values())
        contents = ContentHashes(root=find_cache_root())
        told: tuple[str, ...] = ()
        try:
            with reporter.stage("hashing", len(refs)) as stage:
                hashes = contents.hash_pictures(refs, stage, self.plan.request.workers)
        except MissingData:
            hashes, told = [""] * len(refs), (NO_PICTURES,)
        sha256 = {ref.id: one for ref, one in zip(refs, hashes, strict=True)}
        references = [query.reference for query in data.queries]
        return (
            fingerprint_pictures(data.gallery, sha256),
            fingerprint_pictures(references, sha256),
            told,
        )


def limit_metrics(plan: Plan, metrics: tuple[str, ...]) -> Plan:
    """The plan with a protocol of only these of its metrics; that is another protocol."""
    protocol = plan.protocol
    if metrics == protocol.metrics:
        return plan
    headline = protocol.headline if protocol.headline in metrics else metrics[0]
    by_group = protocol.group_metric if protocol.group_metric in metrics else ""
    limited = replace(protocol, metrics=metrics, headline=headline, group_metric=by_group)
    return replace(plan, protocol=limited)
