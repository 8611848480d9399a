"""A way to compose a query, and what it sees of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from cirbench.benchmark.api.backbone import Backbone

if TYPE_CHECKING:
    from torch import Tensor

    from cirbench.benchmark.api.protocol import EvaluationProtocol


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

    def text_features(self, family: str = "text") -> Tensor:
        """(B, C) float32, not normalised; each distinct text is encoded once for all methods."""
        ...

    def prompt_features(self, words: Tensor, family: str = "pseudo-word") -> Tensor:
        """(B, W) pseudo-words → (B, C) float32, not normalised."""
        ...


class Method(ABC):
    """A way to compose a query. One paper a file in `methods/`.

    A subclass has a `name` and a `compose`; `build` where it has weights or needs the backbone.

    A method whose score is no dot product would add a `score(queries, gallery)` to this seam:
    `ranking.rank` already takes its scores from a function of query rows.

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

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        """Makes the method ready for a backbone; `checkpoint` is read, not interpreted.

        Raises:
            CorruptData: the checkpoint is of another kind, or its shapes don't fit the backbone.
        """
        return cls()

    @abstractmethod
    def compose(self, queries: Queries) -> Tensor:
        """B queries → (B, C) float32 unit vectors, ranked by dot product with the gallery's."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file of weights as it was read.

    Attributes:
        content: what `torch.load` gives, or the tensors of a safetensors file by name.
        provenance: the JSON header of our own files; empty for other people's.
        sha256: of the file.
    """

    path: Path
    content: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sha256: str
