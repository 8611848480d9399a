"""Backbone `trained:FILE`: the towers that a supervised method trained along with itself.

A picture's embedding is the vector that the method ranks, a text's that of its text tower. So
`image-only`, `text-only` and `image-text` over it are the method's visual search, cross-modal
search and late fusion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.registry import find_method, methods
from cirbench.benchmark.backbones.base import ImageTower
from cirbench.benchmark.backbones.loading import read_channels, read_deviations
from cirbench.benchmark.checkpoints import loading_network, read_checkpoint
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.vocabulary import Vocabulary


@dataclass(kw_only=True)
class TrainedTowers(ImageTower):
    """A supervised network as a `Backbone`; without prompts, since its words are no tokens."""

    words: Vocabulary
    tokenizer_sha256: str = field(init=False)
    context_length: int = 1 << 20  # a text may be of any length
    token_width: int = 0
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        said = repr((type(self.words).__qualname__, self.words.words))
        self.tokenizer_sha256 = hashlib.sha256(said.encode()).hexdigest()

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        network: Any = self.model
        with self._set_arithmetic():
            vectors: Tensor = network.embed_texts(self.words.encode_batch(texts).to(self.device))
            return vectors.float()

    def encode_prompts(
        self,
        prompts: Sequence[str],
        words: Tensor,
        *,
        placeholder: str = "*",
        truncate: bool = False,
        every: bool = False,
    ) -> Tensor:
        raise UsageError(
            f"{self.name} takes no pseudo-words; choose a method without prompts, or a CLIP "
            f"(bench ls backbones)"
        )


def load(name: str, *, device: str, precision: str) -> TrainedTowers:
    """`trained:FILE`, a file that `bench train` wrote with a trunk trained along.

    Raises:
        MissingData, CorruptData: it is not there, or no such file.
    """
    checkpoint = read_checkpoint(Path(name.removeprefix("trained:")))
    kind = checkpoint.provenance.get("kind")
    with loading_network(checkpoint, "network with towers of its own"):
        method: Any = find_method(str(kind)) if kind in methods() else object
        has_towers = issubclass(method, Supervised)
        if not has_towers:
            raise ValueError(f"its header must name a method with towers, and says {kind}")
        network, words = method.read(checkpoint)
        if not getattr(network.shape, "trunk", None):
            raise ValueError("it was trained over frozen features; run it over their backbone")
        spec = _read_image_spec(name, checkpoint.provenance["image"])
    towers = make_towers(network, words, spec, device, precision)
    towers.name = f"trained:{kind}+{towers.weights_sha256[:8]}"
    return towers


def _read_image_spec(name: str, found: Mapping[str, Any]) -> ImageSpec:
    size = found["size"]
    if type(size) is not int or size < 1:
        raise ValueError(f"the side of its pictures must be a number of pixels, got {size!r}")
    mean, std = read_channels(name, "mean", found["mean"]), read_deviations(name, found["std"])
    return ImageSpec(size=size, mean=mean, std=std)


def make_towers(
    network: Any, words: Vocabulary, spec: ImageSpec, device: str, precision: str = "fp32"
) -> TrainedTowers:
    """Make a backbone of a network, which is frozen."""
    return TrainedTowers(
        name="trained:",
        model=network,
        image_tower=network.embed_images,
        embedding_width=network.shape.width,
        image_spec=spec,
        device=torch.device(device),
        precision=precision,
        words=words,
    )
