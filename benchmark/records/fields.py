"""What a record holds, as values.

A field with a default is one that earlier records lack.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.runtime.provenance import Environment

_SLUG = 48

Metrics = Mapping[str, Mapping[str, Interval]]
"""Group or average → metric → its value and interval."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a record is the record of; two cells that differ anywhere have different files."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # it would not be in the path

    method: str
    trained_on: str | None
    task: str
    split: str
    protocol: str
    """name@hash"""
    backbone: str
    checkpoint: str | None
    """sha256 of the method's own weights."""
    seed: int
    label: str | None = None
    """What a person calls this one, to tell it from others."""

    @property
    def path(self) -> Path:
        """Relative to the results folder: a readable slug and a hash of every field."""
        fields = {k: v for k, v in asdict(self).items() if k != "label" or v is not None}
        canonical = json.dumps(fields, sort_keys=True).encode()
        digest = hashlib.sha256(canonical).hexdigest()[:8]
        names = (self.method, self.backbone, self.protocol.split("@")[0], digest)
        return Path(slug(self.task)) / ("--".join(map(slug, names)) + ".json")


def slug(name: str) -> str:
    """Make a short ASCII file name that is safe everywhere and still reads like the name."""
    plain = unicodedata.normalize("NFKD", name)
    safe = re.sub(r"[^\w.]+", "-", plain, flags=re.ASCII).strip("-.") or "unnamed"
    if not name.isascii():  # what is left may be no name, or another's
        safe = f"{safe[: _SLUG - 5]}-{hashlib.sha256(name.encode()).hexdigest()[:4]}"
    return safe[:_SLUG]


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What a method says of itself."""

    zero_shot: bool
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How the intervals were made."""

    resamples: int
    seed: int
    level: float
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sizes of an evaluation, and its queries that were close.

    Attributes:
        missing: pictures that were left out.
        tied_queries: those whose rank the gallery's order decided.
        fragile_queries: those whose rank a change of 1e-6 in the scores could move.
        image_passes: pictures that went through the backbone, not taken from the store.
    """

    queries: int
    references: int
    gallery: int
    missing: int
    queries_without_positives: int
    tied_queries: int
    fragile_queries: int | None = None
    pictures: int
    image_passes: int


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """sha256 of the contents that decide the numbers."""

    gallery: str
    annotations: str
    references: str
    weights: str
    tokenizer: str | None = None
    preprocess: str
    checkpoint: str | None


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """The file of the method's own weights.

    Attributes:
        backbone: what they were trained over, or began with where it was trained along; None where
            the file doesn't say.
        released: the name under which it was published, if it was; its sha256 is the cell's.
    """

    name: str
    backbone: str | None = None
    released: str | None = None


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Which annotations were read.

    Attributes:
        released: whether they are the officially released ones, all of them.
        files: name → sha256.
    """

    released: bool
    files: Mapping[str, str]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """How an evaluation was run.

    Attributes:
        partial: whether queries or pictures were left out.
        limit: queries a group, where they were limited.
        imported_rows: vectors that came from another machine's store.
        preprocess: the name and the backbone's sizes and statistics.
        seconds: by stage.
    """

    partial: bool
    limit: int | None
    precision: str
    device: str
    batch_size: int
    cache: str
    workers: int
    threads: int | None = None
    imported_rows: int | None = None
    preprocess: Mapping[str, Any]
    seconds: Mapping[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Where the numbers of a record come from that were not computed here.

    Attributes:
        kind: vectors, ranking or answers.
        files: name → sha256.
        producer: who or what made them, in a person's words.
        normalised: whether vectors were of unit length; they are ranked normalised in any case.
    """

    kind: str
    files: Mapping[str, str]
    producer: str
    normalised: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ArraysFile:
    """The per-query data: a file beside the record, and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Body:
    """Everything in a record besides its per-query data.

    Attributes:
        metrics: empty where the split has no public labels.
        submission: for such a split, the files for its server, relative to the record's folder.
        made: whether the data are made up, in the layout of the task's own.
        imported: of vectors, rankings or answers that were computed elsewhere.
    """

    cell: Cell
    method: MethodFacts
    metrics: Metrics
    groups: tuple[str, ...]
    protocol: EvaluationProtocol
    bootstrap: Bootstrap
    counts: Counts
    fingerprints: Fingerprints
    annotations: Annotations
    run: Run
    environment: Environment
    checkpoint: CheckpointFile | None = None
    submission: tuple[str, ...] = ()
    made: bool = False
    imported: Imported | None = None

    @property
    def tier(self) -> str:
        """What stands behind the numbers: measured here, or imported."""
        return "imported" if self.imported else "measured"

    @property
    def task_label(self) -> str:
        """The task as tables name it: made data are no task's own, and meet it nowhere."""
        return f"{self.cell.task}-made" if self.made else self.cell.task

    @property
    def home(self) -> Path:
        """Where it is kept, relative to the results folder."""
        return Path(slug(self.task_label)) / self.cell.path.name
