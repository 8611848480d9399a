"""CIRPLANT as a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cirbench.methods.cirplant.network import CirplantNetwork, CirplantShape, WordPieces
from cirbench.methods.supervised.method import Supervised


class Cirplant(Supervised):
    """BERT's state at the reference, which it reads after the text."""

    name: ClassVar[str] = "cirplant"
    title: ClassVar[str] = "CIRPLANT"
    network_type: ClassVar[type[Any]] = CirplantNetwork
    shape_type: ClassVar[type[Any]] = CirplantShape
    vocabulary_type: ClassVar[type[Any]] = WordPieces
    reads_features: ClassVar[bool] = False

    @classmethod
    def start(
        cls, settings: Mapping[str, Any], towers: Mapping[str, Any], texts: Sequence[str]
    ) -> tuple[Any, Any]:
        if not settings["init"]:
            return super().start(settings, towers, texts)
        return CirplantNetwork.from_bert(settings["init"], towers["image_width"])
