"""ARTEMIS as a method: pictures are ranked by a score that is no dot product."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from cirbench.methods.artemis.network import ArtemisNetwork, ArtemisShape, score
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.vocabulary import ArtemisVocabulary


class Artemis(Supervised):
    """What the text asks of the target, and what of the reference it leaves alone."""

    name: ClassVar[str] = "artemis"
    title: ClassVar[str] = "ARTEMIS"
    network_type: ClassVar[type[Any]] = ArtemisNetwork
    shape_type: ClassVar[type[Any]] = ArtemisShape
    vocabulary_type: ClassVar[type[Any]] = ArtemisVocabulary
    families: ClassVar[tuple[str, ...]] = ("and-token", "caption", "text")

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return score(queries, gallery)
