"""TIRG as a method."""

from __future__ import annotations

from typing import Any, ClassVar

from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.vocabulary import TirgVocabulary
from cirbench.methods.tirg.network import TirgNetwork, TirgShape


class Tirg(Supervised):
    """The reference's vector, gated by the text, and a residual."""

    name: ClassVar[str] = "tirg"
    title: ClassVar[str] = "TIRG"
    network_type: ClassVar[type[Any]] = TirgNetwork
    shape_type: ClassVar[type[Any]] = TirgShape
    vocabulary_type: ClassVar[type[Any]] = TirgVocabulary
    families: ClassVar[tuple[str, ...]] = ("inadditiontothat", "caption", "text")
