"""MAAF: a transformer over the places of a picture and the words of a text.

Dodds, Culpepper, Herdade, Zhang, Boakye. Modality-Agnostic Attention Fusion for Visual Search with
Text Feedback. arXiv 2007.00145 (2020). Follows the code of yahoo/maaf that was released with it,
not that of 2022.

A picture's tokens are the places of the maps layer3 and layer4, each through a 1x1 convolution,
batch norm and ReLU; a text's are the LSTM's outputs at each word. No positions are added. Blocks
over [picture; text], with N a layer norm of its own kind:

    x = x + drop(attention(N x))        x = x + drop(W2 drop(ReLU(W1 N x)))        and a last N

The vector of a picture is the mean over the maps of the mean over a map's tokens; that of a text
the mean over its words; a query is the mean of the two. The gallery's side is a picture's tokens
alone through the same blocks.

Known deviations: none. Over frozen features, which the paper does not have, a picture is one token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cirbench.benchmark.backbones.trunks import make_trunk
from cirbench.benchmark.checkpoints import fill_network
from cirbench.methods.supervised.batch import Batch
from cirbench.methods.supervised.losses import scaled_cosine_loss
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.official import T, rename
from cirbench.methods.supervised.towers import Texts, TowerShape, WordLstm
from cirbench.methods.supervised.vocabulary import MaafVocabulary, TokenBatch

DROPOUT = 0.1
SCALE = 4.0
"""Of both sides in the loss, at first; it is learned."""
_MASKED = -1e9


@dataclass(frozen=True, kw_only=True)
class MaafShape(TowerShape):
    """MAAF's widths; the defaults are those of Fashion-IQ.

    Attributes:
        blocks, heads, hidden: of the transformer; `hidden` is its feed-forward width.
        layer3: whether layer3's places are tokens, besides layer4's.
        softmax: whether attention is normalised (not on CSS).
    """

    blocks: int = 2
    heads: int = 8
    hidden: int = 128
    layer3: bool = True
    softmax: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of {self.heads} heads, got {self.width}")


class SampleNorm(nn.Module):
    """gain (x - mean) / (std + 1e-6) + bias, with the unbiased std; `nn.LayerNorm` differs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(dim=-1, keepdim=True)
        return self.gain * centred / (tokens.std(dim=-1, keepdim=True) + 1e-6) + self.bias


class Attention(nn.Module):
    """Self-attention of (B, T, d) tokens, of which (B, T) `mask` says which may be looked at."""

    def __init__(self, width: int, heads: int, softmax: bool) -> None:
        super().__init__()
        self.heads, self.softmax = heads, softmax
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        def split(projected: Tensor) -> Tensor:  # (B, heads, T, d / heads)
            return projected.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)

        query, key = split(self.query(tokens)), split(self.key(tokens))
        value = split(self.value(tokens))
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        hidden = ~mask[:, None, None, :]
        # Without a softmax the scores are the weights, and a hidden token's must be 0.
        weights = scores.masked_fill(hidden, _MASKED if self.softmax else 0.0)
        if self.softmax:
            weights = weights.softmax(dim=-1)
        return self.output((self.dropout(weights) @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module is untyped


class Block(nn.Module):
    """Attention and a feed-forward network, each over normed tokens and added to them."""

    def __init__(self, shape: MaafShape) -> None:
        super().__init__()
        width = shape.width
        self.attention_norm, self.feed_norm = SampleNorm(width), SampleNorm(width)
        self.attention = Attention(width, shape.heads, shape.softmax)
        self.expand, self.contract = nn.Linear(width, shape.hidden), nn.Linear(shape.hidden, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), mask))
        inner = self.dropout(self.expand(self.feed_norm(tokens)).relu())
        return tokens + self.dropout(self.contract(inner))  # type: ignore[no-any-return]  # the same


class MapProjection(nn.Module):
    """The places of a map as tokens, row by row: (B, C, h, w) → (B, hw, d)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        projected: Tensor = self.norm(self.conv(maps)).relu()
        return projected.flatten(2).transpose(1, 2)


class MaafNetwork(nn.Module):
    """Pictures and texts → (B, d) vectors, not normalised; their cosine is the score."""

    def __init__(self, shape: MaafShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.trunk = None if shape.trunk is None else make_trunk(shape.trunk)
        channels = (shape.image_width,) if self.trunk is None else self.trunk.widths
        if not shape.layer3:
            channels = channels[-1:]
        self.projections = nn.ModuleList(MapProjection(c, width) for c in channels)
        self.text: nn.Module = (
            WordLstm(shape.words, width) if shape.words else nn.Linear(shape.text_width, width)
        )
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = SampleNorm(width)
        self.scale = nn.Parameter(torch.tensor([SCALE]))
        for parameter in self.blocks.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def tokenize_images(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, S, S) pixels, or (B, C) frozen features → (B, T, d) tokens of each map."""
        if self.trunk is None:
            maps = [pictures[:, :, None, None]]
        else:
            maps = list(self.trunk(pictures))[-len(self.projections) :]
        return [projection(m) for projection, m in zip(self.projections, maps, strict=True)]

    def tokenize_texts(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """B texts → (B, L, d) tokens and their (B, L) mask; a frozen text is one token."""
        if isinstance(texts, TokenBatch):
            return self.text(texts), texts.mask
        tokens = self.text(texts)[:, None]
        return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)

    def fuse(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, T, d) tokens, of which (B, T) `mask` holds → (B, T, d)."""
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens)  # type: ignore[no-any-return]  # the same

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Pictures alone through the transformer → (B, d), what is ranked."""
        maps = self.tokenize_images(pictures)
        tokens = torch.cat(maps, dim=1)
        return _pool_maps(self.fuse(tokens, _all_of(tokens)), maps)

    def embed_texts(self, texts: Texts) -> Tensor:
        """Texts alone through the transformer → (B, d)."""
        tokens, mask = self.tokenize_texts(texts)
        return _pool_words(self.fuse(tokens, mask), mask)

    def compose(self, references: Tensor, texts: Texts) -> Tensor:
        """References as `embed_images` takes them, and texts → (B, d) queries."""
        maps = self.tokenize_images(references)
        words, mask = self.tokenize_texts(texts)
        places = torch.cat(maps, dim=1)
        fused = self.fuse(
            torch.cat([places, words], dim=1), torch.cat([_all_of(places), mask], dim=1)
        )
        count = places.shape[1]
        return (_pool_maps(fused[:, :count], maps) + _pool_words(fused[:, count:], mask)) / 2

    sees_maps = True
    """Whether a reference's vector is not enough for a query."""

    def compute_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over a batch's targets."""
        queries = self.compose(batch.references, batch.texts)
        return scaled_cosine_loss(queries, self.embed_images(batch.targets), self.scale)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        trunk: str = "resnet50",
        *,
        heads: int = 8,
        softmax: bool = True,
    ) -> MaafNetwork:
        """Make the network of the authors' weights; for use within `loading_network`.

        Args:
            heads, softmax: what no weight's shape tells.
        """
        words, width = state["text_model.embedding_layer.weight"].shape
        shape = MaafShape(
            width=width,
            trunk=trunk,
            words=words,
            blocks=_count_blocks(state),
            heads=heads,
            hidden=state[f"{_LAYERS}0.{_INNER}"].shape[0],
            layer3=f"{_PROJECTIONS[0]}conv.weight" in state,
            softmax=softmax,
        )
        with torch.random.fork_rng(devices=[]):
            network = cls(shape)
        fill_network(network, rename_official(state))
        return network


class Maaf(Supervised):
    """Places of the reference and words of the text through one transformer."""

    name: ClassVar[str] = "maaf"
    title: ClassVar[str] = "MAAF"
    network_type: ClassVar[type[Any]] = MaafNetwork
    shape_type: ClassVar[type[Any]] = MaafShape
    vocabulary_type: ClassVar[type[Any]] = MaafVocabulary
    families: ClassVar[tuple[str, ...]] = ("inadditiontothat", "caption", "text")


def rename_official(state: Mapping[str, T]) -> dict[str, T]:
    """Put our names in place of yahoo/maaf's.

    Raises:
        ValueError: a name is unknown.
    """
    names = {**_OFFICIAL_NAMES}
    projections = [n for n in _PROJECTIONS if f"{n}conv.weight" in state]
    for i, name in enumerate(projections):
        names[f"{name}conv."] = f"projections.{i}.conv."
        names[f"{name}bn."] = f"projections.{i}.norm."
    for i in range(_count_blocks(state)):
        names |= {f"{_LAYERS}{i}.{theirs}": f"blocks.{i}.{o}" for theirs, o in _OF_BLOCK.items()}
    return rename(state, names, _UNUSED)


def _count_blocks(state: Mapping[str, object]) -> int:
    return sum(name.startswith(_LAYERS) and name.endswith(_INNER) for name in state)


_LAYERS, _INNER = "composer.encoder.layers.", "feed_forward.w_1.weight"
_PROJECTIONS = ("img_model.l3_conv_proj.", "img_model.l4_conv_proj.")
_OFFICIAL_NAMES = {
    "normalization_layer.norm_s": "scale",
    "img_model.model.": "trunk.",
    "text_model.embedding_layer.": "text.embedding.",
    "text_model.lstm.": "text.lstm.",
    "text_model.fc_output.1.": "text.output.",
    "composer.encoder.norm.a_2": "norm.gain",
    "composer.encoder.norm.b_2": "norm.bias",
}
_OF_BLOCK = {
    "self_attn.linears.0.": "attention.query.",
    "self_attn.linears.1.": "attention.key.",
    "self_attn.linears.2.": "attention.value.",
    "self_attn.linears.3.": "attention.output.",
    "feed_forward.w_1.": "expand.",
    "feed_forward.w_2.": "contract.",
    "sublayer.0.norm.a_2": "attention_norm.gain",
    "sublayer.0.norm.b_2": "attention_norm.bias",
    "sublayer.1.norm.a_2": "feed_norm.gain",
    "sublayer.1.norm.b_2": "feed_norm.bias",
}
_UNUSED = ("img_model.model.fc.", "img_model.fc.", "composer.m.")
"""A classifier without use under two names, and the transformer a second time."""


def _all_of(tokens: Tensor) -> Tensor:
    """A mask that hides none of (B, T, d) tokens."""
    return tokens.new_ones(tokens.shape[:2], dtype=torch.bool)


def _pool_maps(tokens: Tensor, maps: list[Tensor]) -> Tensor:
    """The mean over the maps of a map's mean; of the paper's poolings "resolutionwise"."""
    parts = torch.split(tokens, [m.shape[1] for m in maps], dim=1)
    return torch.stack([part.mean(dim=1) for part in parts]).mean(dim=0)


def _pool_words(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean over a text's words."""
    weights = mask[:, :, None].to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1)
