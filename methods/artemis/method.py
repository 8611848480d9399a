"""ARTEMIS as a method: pictures are ranked by a score that is no dot product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cirbench.benchmark.runtime.errors import UsageError
from cirbench.methods.artemis.network import ArtemisNetwork, ArtemisShape, score
from cirbench.methods.artemis.word_vectors import read_word_vectors
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

    @classmethod
    def start(
        cls, settings: Mapping[str, Any], towers: Mapping[str, Any], texts: Sequence[str]
    ) -> tuple[Any, Any]:
        """Make network and words; with a file of word vectors, these in place of drawn ones.

        Words that the file lacks are drawn from N(0, 1).

        Raises:
            UsageError: there is a file, and the backbone reads the texts itself.
            MissingData, CorruptData: as `read_word_vectors`.
        """
        network, words = super().start(settings, towers, texts)
        if not settings["word_vectors"]:
            return network, words
        if words is None:
            raise UsageError(
                "word_vectors must be left out over a backbone with a text tower, which reads the "
                f"texts itself, got {settings['word_vectors']}"
            )
        weight, path = network.text.embedding.weight, Path(settings["word_vectors"])
        found = read_word_vectors(path, words.words, weight.shape[1])
        nn.init.normal_(weight)
        with torch.no_grad():
            for row, word in enumerate(words.words):
                if word in found:
                    weight[row] = found[word]
        return network, words

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return score(queries, gallery)
