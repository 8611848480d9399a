"""What the supervised systems have in common as methods: weights, words, and where pictures go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method, Queries
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.checkpoints import (
    check_fits,
    describe_other_weights,
    fill_network,
    find_network_weights,
    loading_network,
    sha256_of_tensors,
)
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.torch_state import full_float32
from cirbench.methods.supervised.towers import Texts
from cirbench.methods.supervised.vocabulary import Vocabulary


class Supervised(Method):
    """A network over pictures and texts that saw triplets, and its words.

    Pictures come as the embeddings of a frozen backbone; or the backbone is the network's own
    trained towers (`trained:FILE`), whose embeddings are already what is ranked.

    Args:
        words: None over the texts of a frozen backbone.
        own_towers: whether the backbone is the network itself.
    """

    zero_shot: ClassVar[bool] = False
    needs_checkpoint: ClassVar[bool] = True
    title: ClassVar[str]
    network_type: ClassVar[type[Any]]
    shape_type: ClassVar[type[Any]]
    vocabulary_type: ClassVar[type[Vocabulary]]
    reads_features: ClassVar[bool] = True
    """Whether the texts of a backbone with a text tower may come as its features."""
    families: ClassVar[tuple[str, ...]] = ("caption", "text")
    """Of the protocols' texts; the first that a protocol has is taken."""

    def __init__(
        self, network: Any, words: Vocabulary | None, *, trained_on: str, own_towers: bool = False
    ) -> None:
        self.network = network.eval()
        self.words, self.trained_on, self.own_towers = words, trained_on, own_towers

    @classmethod
    def start(
        cls, settings: Mapping[str, Any], towers: Mapping[str, Any], texts: Sequence[str]
    ) -> tuple[Any, Vocabulary | None]:
        """Make network and words as they are before a training.

        Args:
            settings: a recipe's fields, of which the shape's are taken.
            towers: the fields of `TowerShape` that the backbone decides; 0 words stand for none.
            texts: of the training, whose words are gathered.
        """
        words = cls.vocabulary_type.build(texts) if towers["words"] else None
        known = {**settings, **towers, "words": len(words or ())}
        own = {f.name: known[f.name] for f in fields(cls.shape_type) if f.name in known}
        return cls.network_type(cls.shape_type(**own)), words

    @classmethod
    def find_family(cls, protocol: EvaluationProtocol) -> str:
        """Find which of a protocol's texts the method reads."""
        own = (family for family in cls.families if family in protocol.templates)
        return next(own, cls.families[-1])

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> tuple[Any, Vocabulary | None]:
        """Read network and words of a file that `bench train` wrote; for `loading_network`.

        Raises:
            ValueError and others: it is no such file.
        """
        header = checkpoint.provenance
        if (kind := header.get("kind")) != cls.name:
            raise ValueError(
                f"its header must say {cls.name}, as bench train {cls.name} writes it, and says "
                f"{kind}"
            )
        shape = cls.shape_type(**header["shape"])
        weights = find_network_weights(checkpoint, "network")
        _check_numbers(shape, weights)
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):  # takes no memory, whatever sizes the header asks for
                check_fits(cls.network_type(shape), weights)
            network = cls.network_type(shape)
        fill_network(network, weights)
        if not shape.words:
            return network, None
        if not all(isinstance(word, str) for word in header["words"]):
            raise ValueError("its vocabulary must be a list of texts")
        words = cls.vocabulary_type(tuple(header["words"]))
        if len(words) != network.shape.words:
            raise ValueError(
                f"its vocabulary must have {network.shape.words:,} words, got {len(words):,}"
            )
        return network, words

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        if checkpoint is None:
            raise CorruptData(f"{cls.name} needs a checkpoint")
        with loading_network(checkpoint, cls.title):
            network, words = cls.read(checkpoint)
        trunk = getattr(network.shape, "trunk", None)
        if trunk:
            _check_own_towers(checkpoint, network, backbone)
        else:
            _check_widths(checkpoint, network.shape, backbone)
        method = cls(
            network.to(backbone.device),
            words,
            trained_on=checkpoint.provenance.get("trained_on", "unstated triplets"),
            own_towers=bool(trunk),
        )
        if not trunk:
            method.remarks = describe_other_weights(checkpoint, backbone)
        return method

    @full_float32()
    def gallery(self, features: Tensor) -> Tensor:
        vectors = features if self.own_towers else self.network.embed_images(features)
        return self._scale(vectors)

    @full_float32()
    def compose(self, queries: Queries) -> Tensor:
        texts = self._read_texts(queries)
        if not self.own_towers:
            return self._scale(self.network.compose(queries.reference_features, texts))
        if self.network.sees_maps:
            pixels = queries.reference_pixels
            return self._scale(self.network.compose(pixels, texts))
        words = self.network.embed_texts(texts)
        return self._scale(self.network.combine(queries.reference_features, words))

    def _read_texts(self, queries: Queries) -> Texts:
        family = self.find_family(queries.protocol)
        if self.words is None:
            return queries.text_features(family)
        device = queries.reference_features.device
        return self.words.encode_batch(queries.texts(family)).to(device)

    def _scale(self, vectors: Tensor) -> Tensor:
        """To unit length, where the score is the dot product."""
        return vectors if self.own_score else normalize(vectors, dim=1)


def _check_numbers(shape: Any, weights: Mapping[str, Tensor]) -> None:
    """Hold the numbers of a header to what its weights can be: none is larger than their count."""
    most = sum(weight.numel() for weight in weights.values())
    for name, value in asdict(shape).items():
        if isinstance(value, int) and not 0 <= value <= most:
            raise ValueError(f"{name} must be at most {most:,}, as it has weights, got {value:,}")


def _check_own_towers(checkpoint: Checkpoint, network: nn.Module, backbone: Backbone) -> None:
    if sha256_of_tensors(network.state_dict()) != backbone.weights_sha256:
        raise CorruptData(
            f"{checkpoint.path} has towers of its own, which were trained along; it must be run "
            f"over them, --backbone trained:{checkpoint.path}, got {backbone.name}"
        )


def _check_widths(checkpoint: Checkpoint, shape: Any, backbone: Backbone) -> None:
    text_width = getattr(shape, "text_width", 0)
    if text_width and not backbone.context_length:
        raise CorruptData(
            f"{checkpoint.path} reads texts through its backbone, and {backbone.name} has no text "
            f"tower: it was trained for another backbone"
        )
    for what, width in (("images", shape.image_width), ("texts", text_width)):
        if width not in (0, backbone.embedding_width):
            raise CorruptData(
                f"{checkpoint.path} takes features of {what} of width {width}; {backbone.name} has "
                f"{backbone.embedding_width}: it was trained for another backbone"
            )
