"""A way to compose a query, and what it sees of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.weights import ReleasedWeights

if TYPE_CHECKING:
    from torch import Tensor

    from cirbench.benchmark.api.protocol import EvaluationProtocol

    ScoreOfVectors = Callable[[Tensor, Tensor], Tensor]


class Queries(Protocol):
    """A batch of B queries as a method sees it.

    Examples:
        >>> def add(queries):  # in a method's compose
        ...     return queries.reference_features + queries.text_features()
    """

    @property
    def protocol(self) -> EvaluationProtocol: ...

    @property
    def reference_features(self) -> Tensor:
        """(B, C) float32, not normalised."""
        ...

    @property
    def reference_pixels(self) -> Tensor:
        """(B, 3, S, S) float32 on the backbone's device, preprocessed as for its image tower.

        For methods that need more of a reference than its features. Each time it is asked for, the
        batch's pictures are read and decoded, each distinct one once, and nothing is kept.

        Raises:
            MissingData, CorruptData: a picture can't be read; the message names it.
        """
        ...

    @property
    def reference_tokens(self) -> Tensor:
        """(B, 1 + P, V) float32, as the backbone's `encode_image_tokens` gives them.

        Each distinct picture of the batch is read, decoded and encoded once, and nothing is kept.

        Raises:
            UsageError: the backbone has no tokens of pictures.
            MissingData, CorruptData: as `reference_pixels`.
        """
        ...

    def text_features(self, family: str = "text") -> Tensor:
        """(B, C) float32, not normalised; each distinct text is encoded once for all methods."""
        ...

    def prompt_features(self, words: Tensor, family: str = "pseudo-word") -> Tensor:
        """(B, W) pseudo-words → (B, C) float32, not normalised."""
        ...

    def texts(self, family: str = "text") -> Sequence[str]:
        """The B texts themselves, for an encoder of the method's own."""
        ...


class Method(ABC):
    """A way to compose a query. One paper a file in `methods/`.

    A subclass has a `name` and a `compose`; `build` where it has weights or needs the backbone;
    `gallery` where pictures are ranked as other vectors than their unit embeddings; `score` where
    the score is no dot product.

    Examples:
        >>> import cirbench
        >>> from torch.nn.functional import normalize
        >>> class Negated(cirbench.Method):
        ...     name = "negated"
        ...     def compose(self, queries):
        ...         return normalize(-queries.reference_features, dim=-1)
        >>> records = cirbench.evaluate(Negated, "emoji", backbone="fake", limit=2)
        >>> records.to_frame().method.unique().tolist()
        ['negated']
    """

    name: ClassVar[str]
    trained_on: str | None = None
    """The data its own weights saw, or None where it has none: then it is training-free."""
    remarks: tuple[str, ...] = ()
    """What a reader of its numbers should know of the weights that were loaded."""
    zero_shot: ClassVar[bool] = True
    """False where training saw composed-retrieval triplets."""
    needs_checkpoint: ClassVar[bool] = False
    reads_pictures: ClassVar[bool] = False
    """Whether it asks for pixels or tokens of references: queries of one picture then come one
    after the other, so that the picture is seldom read twice."""

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        """Makes the method ready for a backbone; `checkpoint` is read, not interpreted.

        Raises:
            CorruptData: the checkpoint is of another kind, or its shapes don't fit the backbone.
        """
        return cls()

    @abstractmethod
    def compose(self, queries: Queries) -> Tensor:
        """B queries → (B, D) float32 unit vectors, ranked by dot product with the gallery's.

        With a `score` of its own it may give (B, …) of any shape and length.
        """

    def gallery(self, features: Tensor) -> Tensor:
        """(N, C) float32 embeddings, not normalised → (N, D) float32, what is ranked."""
        from torch.nn.functional import normalize  # the seams are imported without torch

        return normalize(features, dim=1)

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """(B, …) composed queries and (N, D) of the gallery → (B, N) float32, higher is better.

        A method's own is asked for part of the queries and all of the gallery at a time, from
        several threads; it must not change anything. A query's scores may not depend on the others.
        """
        return queries @ gallery.T

    @property
    def own_score(self) -> ScoreOfVectors | None:
        """Its `score`; None where that is the dot product, which is ranked by exact scores."""
        return None if type(self).score is Method.score else self.score


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file of weights as it was read.

    Attributes:
        content: what `torch.load` gives, or the tensors of a safetensors file by name.
        provenance: the JSON header of our own files, what is known of released ones; else empty.
        sha256: of the file.
        released: the published file that it is; None where it is none that is known.
    """

    path: Path
    content: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sha256: str
    released: ReleasedWeights | None = None
