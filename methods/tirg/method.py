"""TIRG: a gated picture plus a residual.

Vo, Jiang, Sun, Murphy, Li, Fei-Fei, Hays. Composing Text and Image for Image Retrieval - an
Empirical Odyssey. CVPR 2019, arXiv 1812.07119. Follows google/tirg.

With i the picture's vector, t the text's, c = [i; t], BN and BN' batch norms and a = (1, 10) at
first:

    g = L(ReLU(BN(c)))        r = L2(ReLU(L1(ReLU(BN'(c)))))        q = a0 sigmoid(g) i + a1 r

i is a Linear of the trunk's mean map, without an activation; t that of the last word's LSTM output;
the gallery's side is i alone. `last-conv` does the same to the last map, with t at each place and
convolutions for L, and takes i of the result. `concat`, the paper's baseline, is a network over c.

Known deviations: the released code has two more weights in `a`, which nothing uses, and breaks off
on a text without words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cirbench.benchmark.backbones.trunks import make_trunk
from cirbench.benchmark.checkpoints import fill_network
from cirbench.methods.supervised.batch import Batch
from cirbench.methods.supervised.losses import (
    draw_pair_triplets,
    scaled_cosine_loss,
    soft_triplet_loss,
)
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.official import T, rename
from cirbench.methods.supervised.towers import Texts, TowerShape, WordLstm
from cirbench.methods.supervised.vocabulary import TirgVocabulary, TokenBatch

FUSIONS = ("vector", "last-conv", "concat")
LOSSES = ("cross-entropy", "triplet")
SCALE = 4.0
"""Of both sides in the loss, at first; it is learned."""


@dataclass(frozen=True, kw_only=True)
class TirgShape(TowerShape):
    """TIRG's widths; `fusion` is one of FUSIONS, `loss` one of LOSSES.

    Raises:
        ValueError: another of either, or `last-conv` without a trunk whose map it would change.
    """

    fusion: str = "vector"
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {self.fusion!r}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.fusion == "last-conv" and self.trunk is None:
            raise ValueError("last-conv changes a trunk's map; over frozen features use vector")


class GatedResidual(nn.Module):
    """(B, C) or (B, C, h, w) pictures and as many (B, T) texts → the pictures' shape."""

    def __init__(self, gate: nn.Module, residual: nn.Module) -> None:
        super().__init__()
        self.gate, self.residual = gate, residual
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0]))

    def forward(self, pictures: Tensor, texts: Tensor) -> Tensor:
        if pictures.dim() == 4:
            texts = texts[:, :, None, None].expand(-1, -1, *pictures.shape[2:])
        both = torch.cat([pictures, texts], dim=1)  # the picture first
        kept = self.gate(both).sigmoid() * pictures
        return self.weights[0] * kept + self.weights[1] * self.residual(both)  # type: ignore[no-any-return]  # nn.Module is untyped


class Concatenation(nn.Module):
    """The baseline without a gate: (B, d) pictures and (B, d) texts → (B, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 2 * width),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(2 * width, width),
        )

    def forward(self, pictures: Tensor, texts: Tensor) -> Tensor:
        return self.layers(torch.cat([pictures, texts], dim=1))  # type: ignore[no-any-return]  # nn.Module is untyped


def _make_vector_fusion(width: int) -> GatedResidual:
    gate = nn.Sequential(nn.BatchNorm1d(2 * width), nn.ReLU(), nn.Linear(2 * width, width))
    residual = nn.Sequential(
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, 2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, width),
    )
    return GatedResidual(gate, residual)


def _make_map_fusion(channels: int, text_width: int) -> GatedResidual:
    both = channels + text_width

    def stack() -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(both),
            nn.Conv2d(both, both, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(both, channels, 3, padding=1),
        )

    return GatedResidual(stack(), stack())


class TirgNetwork(nn.Module):
    """Pictures and texts → (B, d) vectors, not normalised; their cosine is the score."""

    def __init__(self, shape: TirgShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.trunk = None if shape.trunk is None else make_trunk(shape.trunk)
        channels = shape.image_width if self.trunk is None else self.trunk.widths[1]
        self.image_projection = nn.Linear(channels, width)
        self.text: nn.Module = (
            WordLstm(shape.words, width) if shape.words else nn.Linear(shape.text_width, width)
        )
        self.fusion: nn.Module
        if shape.fusion == "last-conv":
            self.fusion = _make_map_fusion(channels, width)
        elif shape.fusion == "vector":
            self.fusion = _make_vector_fusion(width)
        else:
            self.fusion = Concatenation(width)
        self.scale = nn.Parameter(torch.tensor([SCALE]))

    def embed_images(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) pixels, or (B, C) frozen features → (B, d), also what is ranked."""
        pooled = pictures if self.trunk is None else self.trunk.pool5(pictures)
        return self.image_projection(pooled)  # type: ignore[no-any-return]  # nn.Module is untyped

    def embed_texts(self, texts: Texts) -> Tensor:
        """B texts → (B, d)."""
        if isinstance(self.text, WordLstm):
            assert isinstance(texts, TokenBatch), "a text tower of its own takes words"
            return self.text.encode_last(texts)
        return self.text(texts)  # type: ignore[no-any-return]  # the same

    def compose(self, references: Tensor, texts: Texts) -> Tensor:
        """References as `embed_images` takes them, and texts → (B, d) queries."""
        words = self.embed_texts(texts)
        if self.shape.fusion == "last-conv":
            assert self.trunk is not None, "TirgShape holds it to this"
            changed = self.fusion(self.trunk(references).layer4, words)
            return self.image_projection(changed.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # the same
        return self.combine(self.embed_images(references), words)

    def combine(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, d) of `embed_images` and (B, d) of `embed_texts` → (B, d); not with `last-conv`."""
        return self.fusion(images, texts)  # type: ignore[no-any-return]  # the same

    @property
    def sees_maps(self) -> bool:
        """Whether a reference's vector is not enough for a query."""
        return self.shape.fusion == "last-conv"

    def compute_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over a batch's targets, or soft triplets over its pairs."""
        queries = self.compose(batch.references, batch.texts)
        targets = self.embed_images(batch.targets)
        if self.shape.loss == "cross-entropy":
            return scaled_cosine_loss(queries, targets, self.scale)
        vectors = self.scale * normalize(torch.cat([queries, targets]), dim=1)
        return soft_triplet_loss(vectors, draw_pair_triplets(len(queries), batch.rng))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], trunk: str = "resnet18") -> TirgNetwork:
        """Make the network of the authors' weights; for use within `loading_network`."""
        fusion = "vector"
        if "mod2d.1.weight" in state:
            fusion = "last-conv"
        elif "composer.m.0.weight" in state:
            fusion = "concat"
        words, width = state["text_model.embedding_layer.weight"].shape
        shape = TirgShape(width=width, trunk=trunk, words=words, fusion=fusion)
        with torch.random.fork_rng(devices=[]):
            network = cls(shape)
        weights = rename_official(state)
        if "fusion.weights" in weights:
            weights["fusion.weights"] = weights["fusion.weights"][:2]
        fill_network(network, weights)
        return network


class Tirg(Supervised):
    """The reference's vector, gated by the text, and a residual."""

    name: ClassVar[str] = "tirg"
    title: ClassVar[str] = "TIRG"
    network_type: ClassVar[type[Any]] = TirgNetwork
    shape_type: ClassVar[type[Any]] = TirgShape
    vocabulary_type: ClassVar[type[Any]] = TirgVocabulary
    families: ClassVar[tuple[str, ...]] = ("inadditiontothat", "caption", "text")


def rename_official(state: Mapping[str, T]) -> dict[str, T]:
    """Put our names in place of google/tirg's.

    Raises:
        ValueError: a name is unknown.
    """
    return rename(state, _OFFICIAL_NAMES)


_OFFICIAL_NAMES = {
    "a": "fusion.weights",
    "normalization_layer.norm_s": "scale",
    "img_model.": "trunk.",
    "img_model.fc.0.": "image_projection.",
    "text_model.embedding_layer.": "text.embedding.",
    "text_model.lstm.": "text.lstm.",
    "text_model.fc_output.1.": "text.output.",
    "gated_feature_composer.1.": "fusion.gate.0.",
    "gated_feature_composer.3.": "fusion.gate.2.",
    "res_info_composer.1.": "fusion.residual.0.",
    "res_info_composer.3.": "fusion.residual.2.",
    "res_info_composer.5.": "fusion.residual.4.",
    "mod2d_gate.": "fusion.gate.",
    "mod2d.": "fusion.residual.",
    "composer.m.": "fusion.layers.",
}
