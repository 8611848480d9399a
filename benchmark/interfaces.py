"""The three seams (`Backbone`, `Method`, `Task`) and the values that cross them.

A method sees `Queries` and gives unit vectors; it knows no files, devices or gallery. Everything
else (reading, batching, ranking, scoring, records) is the harness's.

This module imports no torch at run time, so that `bench ls` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor

    from cirbench.benchmark.checkpoints import Checkpoint
    from cirbench.benchmark.layout import Place
    from cirbench.benchmark.preprocess import ImageSpec
    from cirbench.benchmark.protocol import EvaluationProtocol
    from cirbench.benchmark.records import PerQuery


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """A picture that is read only when it is needed.

    Attributes:
        id: names the picture; within a task, one id is one picture.
        read: gives the encoded file. Called from worker threads.
    """

    id: str
    read: Callable[[], bytes] = field(compare=False, repr=False)


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
        spans: group → the rows of the gallery that its queries are ranked against; a group that
            is not named is ranked against all (Fashion-IQ has a gallery a category).
        labelled: False where only a server knows the positives: then nothing is scored, and
            `Task.submission` says what to send it.
    """

    gallery: tuple[ImageRef, ...]
    queries: tuple[Query, ...]
    annotations_sha256: str
    spans: Mapping[str, range] = field(default_factory=dict)
    labelled: bool = True

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in the order in which they first occur."""
        return tuple(dict.fromkeys(query.group for query in self.queries))


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

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        """Reads the annotations; opens no picture.

        Raises:
            MissingData: a file is not under `data_root`; the message says where it was looked for.
            CorruptData: an annotation contradicts itself; the message names file and row.
        """
        ...

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        """Pictures that unsupervised training on this task may see."""
        ...

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
    token_width: int
    context_length: int
    image_spec: ImageSpec
    weights_sha256: str
    logit_scale: float
    """What the towers were trained to multiply cosines by (about 100 for OpenAI's)."""
    device: Any

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
    zero_shot: ClassVar[bool] = True
    """False where training saw composed-retrieval triplets."""
    needs_checkpoint: ClassVar[bool] = False
    shipped_checkpoints: ClassVar[Mapping[str, str]] = {}
    """Backbone name → file in `cirbench.methods/weights`, used without `--checkpoint`."""

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
