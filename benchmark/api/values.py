"""The three seams (`Backbone`, `Method`, `Task`) and the values that cross them.

A method sees `Queries` and gives unit vectors; it knows no files, devices or gallery. Everything
else (reading, batching, ranking, scoring, records) is the harness's.

This module imports no torch at run time, so that `bench ls` stays quick.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor

    from cirbench.benchmark.api.protocol import EvaluationProtocol
    from cirbench.benchmark.checkpoints import Checkpoint
    from cirbench.benchmark.data.downloads import Download
    from cirbench.benchmark.data.layout import Place
    from cirbench.benchmark.images.preprocess import ImageSpec
    from cirbench.benchmark.records.record import PerQuery
    from cirbench.benchmark.runtime.progress import Reporter


HIGHEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """A picture that is read only when it is needed.

    Attributes:
        id: names the picture; within a task, one id is one picture.
        read: gives the encoded file. Called from worker threads.
        box: left, upper, right and lower pixel of the part that is looked at, which is stretched
            to the tower's square whatever its shape; None is the whole picture, preprocessed as
            the protocol says.
        path: its file, where it has one of its own; its content's hash can then be remembered.
        title: what a person calls it, where its id does not say so.
    """

    id: str
    read: Callable[[], bytes] = field(compare=False, repr=False)
    path: Path | None = None
    box: tuple[int, int, int, int] | None = None
    title: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A reference picture, what to change about it, and which gallery rows answer it.

    Attributes:
        positives: gallery rows that count as found; may be empty, the query still counts.
        group: the part of the task it is averaged in (a domain, a category).
        fields: what the protocol's templates speak of, such as a caption.
        removed: the gallery row that is left out of this query's ranking, if any.
        members: gallery rows among which alone the positives are ranked a second time, for
            subset metrics (CIRR's image sets, without the reference).
    """

    id: str
    reference: ImageRef
    positives: tuple[int, ...]
    group: str = "all"
    fields: Mapping[str, str] = field(default_factory=dict)
    removed: int | None = None
    members: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A loaded task.

    Attributes:
        gallery: in its fixed order, which breaks ties. One picture may stand in it more than once.
        annotations: annotation file (or what stands for one) → sha256.
        spans: group → the rows of the gallery that its queries are ranked against; a group that
            is not named is ranked against all (Fashion-IQ has a gallery a category).
        labelled: False where only a server knows the positives: then nothing is scored, and
            `Task.submission` says what to send it.
        missing: id of a picture that the annotations name and that is not there → where it was
            looked for. A task leaves it in gallery and queries; the harness stops, or drops it
            and calls the record partial.
        remarks: what a reader of the numbers should know of the data, a sentence each.
    """

    gallery: tuple[ImageRef, ...]
    queries: tuple[Query, ...]
    annotations: Mapping[str, str]
    spans: Mapping[str, range] = field(default_factory=dict)
    labelled: bool = True
    missing: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def annotations_sha256(self) -> str:
        """One hash over all annotations."""
        lines = (f"{name} {sha256}\n" for name, sha256 in sorted(self.annotations.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def pictures(self) -> Mapping[str, ImageRef]:
        """Each distinct picture of gallery and queries once, by id, in order."""
        refs = (*self.gallery, *(query.reference for query in self.queries))
        return {ref.id: ref for ref in refs}

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in the order in which they first occur."""
        return tuple(self.query_counts)

    @property
    def query_counts(self) -> Mapping[str, int]:
        """Group → how many queries it has."""
        return Counter(query.group for query in self.queries)


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """What supervised training sees: a reference, what to change, and the target.

    Attributes:
        captions: wordings of one and the same change; training draws one at each step.
    """

    reference: ImageRef
    target: ImageRef
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the best of several trained models is chosen.

    Attributes:
        metrics: names whose plain mean, over groups first, is the score.
    """

    split: str
    protocol: EvaluationProtocol
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Released:
    """What the annotations that everybody uses come to, so that others can be told from them.

    Attributes:
        queries: group → how many.
        gallery: protocol name → how many images are ranked.
        annotations_sha256: as `TaskData.annotations_sha256`; None where only the counts are known.
        others: what else everybody uses, where there is more than one.
    """

    queries: Mapping[str, int]
    gallery: Mapping[str, int]
    annotations_sha256: str | None = None
    others: tuple[Released, ...] = ()

    def choose(self, data: TaskData, protocol: EvaluationProtocol) -> Released:
        """Which of them these annotations are; the first where they are none."""
        either = (one for one in (self, *self.others) if one._is(data, protocol))
        return next(either, self)

    def matches(self, data: TaskData, protocol: EvaluationProtocol) -> bool:
        """Whether these are released annotations, as far as can be told."""
        return self.choose(data, protocol)._is(data, protocol)

    def _is(self, data: TaskData, protocol: EvaluationProtocol) -> bool:
        return (
            data.query_counts == self.queries
            and len(data.gallery) == self.gallery[protocol.name]
            and self.annotations_sha256 in (None, data.annotations_sha256)
        )


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Pictures of a data set beyond those of one split.

    Attributes:
        missing: names that the annotations hold and no file answers.
        expected: how many names the released annotations hold.
    """

    name: str
    found: int
    missing: tuple[str, ...]
    expected: int


class Mode(StrEnum):
    """What a run does with the store of embeddings."""

    USE = "use"
    REFRESH = "refresh"
    READ_ONLY = "read-only"
    OFF = "off"


class Task(Protocol):
    """A benchmark task. One file in `datasets/`, one class."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    """The first is the default."""
    default_backbone: ClassVar[str]
    protocols: ClassVar[Mapping[str, EvaluationProtocol]]
    """The first is the default."""
    places: ClassVar[Sequence[Place]] = ()
    """What it reads below the data root."""
    released: ClassVar[Mapping[str, Released]] = {}
    """Split → what the released annotations come to; a split that is not named is only ours."""
    downloads: ClassVar[Sequence[Download]] = ()
    """What its owners let everybody fetch."""
    how_to_get: ClassVar[str] = ""
    """Where a person gets the rest, and under which terms."""

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        """Reads the annotations; opens no picture.

        Raises:
            MissingData: an annotation file or a folder is not under `data_root`; the message says
                where it was looked for. Single pictures that are not there go into `missing`.
            CorruptData: an annotation contradicts itself; the message names file and row.
        """
        ...

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        """Pictures that unsupervised training on this task may see."""
        ...

    def prepare(self, *, data_root: Path, seed: int, reporter: Reporter) -> Sequence[str]:
        """Makes what evaluation reads out of what was fetched; gives lines about it."""
        return ()

    def collections(self, *, data_root: Path | None) -> Sequence[Collection]:
        """Pictures to count besides those of the splits; for `bench data check`."""
        return ()

    selection: ClassVar[Selection | None] = None
    """For training on its triplets; None where it has none."""

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        """What supervised training on this task may see."""
        raise NotImplementedError(f"{self.name} has no triplets")

    def submission(self, data: TaskData, ranking: PerQuery) -> Mapping[str, str]:
        """File name → content of what an evaluation server takes; only asked for unlabelled data.

        Raises:
            CorruptData: the server would refuse it.
        """
        raise NotImplementedError(f"{self.name} has no unlabelled split")


class Backbone(Protocol):
    """A CLIP-like pair of towers with one joint embedding of width C and tokens of width W."""

    name: str
    embedding_width: int
    context_length: int
    image_spec: ImageSpec
    weights_sha256: str
    architecture_sha256: str
    """Of what its vectors depend on besides the weights, such as the number of heads."""
    tokenizer_sha256: str
    """Of all that turns a text into tokens."""
    logit_scale: float
    """What the towers were trained to multiply cosines by (about 100 for OpenAI's)."""
    device: Any
    precision: str
    """As `backbones.load_backbone` has it."""

    @property
    def token_width(self) -> int: ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of its numbers should know."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32, preprocessed → (B, C) float32, not normalised."""
        ...

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """B texts → (B, C) float32, not normalised.

        Raises:
            UsageError: a text exceeds the context and `truncate` is off.
        """
        ...

    def encode_prompts(
        self,
        prompts: Sequence[str],
        words: Tensor,
        *,
        placeholder: str = "*",
        truncate: bool = False,
    ) -> Tensor:
        """B prompts, each with its first placeholders' embeddings replaced → (B, C) float32.

        Args:
            words: (B, W) float32, a pseudo-word a prompt, or (B, P, W), for its first P
                placeholders in their order. Gradients reach them.

        Raises:
            UsageError: a prompt has too few placeholders of its own ("*," is another token than
                "* ,"), or exceeds the context and `truncate` is off.
        """
        ...

    def parameters(self) -> Iterable[Tensor]:
        """The towers' weights."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """The towers' weights by their library's names; open_clip's are OpenAI's."""
        ...


class Queries(Protocol):
    """A batch of B queries as a method sees it."""

    @property
    def protocol(self) -> EvaluationProtocol: ...

    @property
    def reference_features(self) -> Tensor:
        """(B, C) float32, not normalised."""
        ...

    def text_features(self, family: str = "text") -> Tensor:
        """(B, C) float32, not normalised; each distinct text is encoded once for all methods."""
        ...

    def prompt_features(self, words: Tensor, family: str = "pseudo-word") -> Tensor:
        """(B, W) pseudo-words → (B, C) float32, not normalised."""
        ...


class Method(Protocol):
    """A way to compose a query. One paper a file in `methods/`.

    A method whose score is no dot product would add a `score(queries, gallery)` to this seam:
    `ranking.rank` already takes its scores from a function of query rows.
    """

    name: ClassVar[str]
    trained_on: str | None = None
    """The data its own weights saw, or None where it has none: then it is training-free."""
    remarks: tuple[str, ...] = ()
    """What a reader of its numbers should know of the weights that were loaded."""
    zero_shot: ClassVar[bool] = True
    """False where training saw composed-retrieval triplets."""
    needs_checkpoint: ClassVar[bool] = False

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        """Makes the method ready for a backbone; `checkpoint` is read, not interpreted.

        Raises:
            CorruptData: the checkpoint is of another kind, or its shapes don't fit the backbone.
        """
        return cls()

    def compose(self, queries: Queries) -> Tensor:
        """B queries → (B, C) float32 unit vectors, ranked by dot product with the gallery's."""
        ...
