"""MAAF as a method."""

from __future__ import annotations

from typing import Any, ClassVar

from cirbench.methods.maaf.network import MaafNetwork, MaafShape
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.vocabulary import MaafVocabulary


class Maaf(Supervised):
    """Places of the reference and words of the text through one transformer."""

    name: ClassVar[str] = "maaf"
    title: ClassVar[str] = "MAAF"
    network_type: ClassVar[type[Any]] = MaafNetwork
    shape_type: ClassVar[type[Any]] = MaafShape
    vocabulary_type: ClassVar[type[Any]] = MaafVocabulary
    families: ClassVar[tuple[str, ...]] = ("inadditiontothat", "caption", "text")
