"""ARTEMIS: explicit matching and implicit similarity of a query and a picture.

Delmas, Sampaio de Rezende, Csurka, Larlus. ARTEMIS: Attention-based Retrieval with Text-Explicit
Matching and Implicit Similarity. ICLR 2022. The published formulas; no code of theirs.

With r and t the vectors of reference and target, m the text's, n(x) = x / |x|, and T = n(Linear m),
A = softmax(Linear ReLU Linear m), one for EM and one for IS:

    EM = <T, n(A_EM t)>        IS = <n(A_IS r), n(A_IS t)>        score = EM + IS, from -2 to 2

Either term is (u . t) / sqrt(w² . t²) with w = A, u = w v and v = T or n(w r). A query is thus four
vectors, u and w² of each term, and a block of scores four matrix products. The length of t drops
out. A pair whose w t vanishes in single precision gets 0 where the published form divides 0 by 0.

Pictures: the cube root of the mean cube of the last map, Linear, n. Frozen features: Linear alone.
Texts: the two last states of a BiGRU over word vectors, n; or the maximum over the steps of an
LSTM, Linear, n.

Known deviation: the released code takes the LSTM's maximum over all steps of a batch, also those
after a text's end, so that a vector depends on the other texts; here this is so in training alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pack_padded_sequence

from cirbench.benchmark.backbones.trunks import make_trunk
from cirbench.benchmark.checkpoints import fill_network
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.methods.artemis.word_vectors import read_word_vectors
from cirbench.methods.supervised.batch import Batch
from cirbench.methods.supervised.losses import tempered_score_loss
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.official import T, rename
from cirbench.methods.supervised.towers import Texts, TowerShape
from cirbench.methods.supervised.vocabulary import ArtemisVocabulary, TokenBatch

TEXT_TOWERS = ("bigru", "lstm")
TEMPERATURE = 2.65926
"""Scores are multiplied by its exponential, 14.29, in the loss; it is learned."""
_LEAST_SQUARE = 1e-30
"""Under a root that divides: far below any square that counts, far above what underflows."""
PICTURES_AT_ONCE = 1024
"""Their scores go from product to product within a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class ArtemisShape(TowerShape):
    """ARTEMIS's widths.

    Attributes:
        word_width: of the word vectors; GloVe's have 300.
        text_tower: one of TEXT_TOWERS.
        lstm_width: of the LSTM's states.

    Raises:
        ValueError: another text tower, or an odd width for two directions of a BiGRU.
    """

    word_width: int = 300
    text_tower: str = "bigru"
    lstm_width: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_tower not in TEXT_TOWERS:
            known = ", ".join(TEXT_TOWERS)
            raise ValueError(f"text_tower must be one of {known}, got {self.text_tower!r}")
        if self.width % 2:
            raise ValueError(f"width must be even, got {self.width}")


def pool_cubes(maps: Tensor) -> Tensor:
    """The cube root of the mean cube (GeM, p = 3): (B, C, h, w) → (B, C)."""
    return maps.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)


def score(queries: Tensor, gallery: Tensor) -> Tensor:
    """Score queries against pictures.

    Args:
        queries: (B, 4, d) of `compose`.
        gallery: (N, d) image vectors, of any length.

    Returns:
        (B, N), from -2 to 2.
    """
    scores = queries.new_empty(len(queries), len(gallery))
    for start in range(0, len(gallery), PICTURES_AT_ONCE):
        part = slice(start, start + PICTURES_AT_ONCE)
        scores[:, part] = _score_part(queries, gallery[part])
    return scores


def _score_part(queries: Tensor, gallery: Tensor) -> Tensor:
    squares = gallery.square()
    explicit, implicit = (
        (queries[:, i] @ gallery.T).mul_(
            (queries[:, i + 1] @ squares.T).clamp_(min=_LEAST_SQUARE).rsqrt_()
        )
        for i in (0, 2)
    )
    return explicit.add_(implicit)


class WordGru(nn.Module):
    """Words → (B, d), the last states of both directions, the forward one first."""

    def __init__(self, words: int, word_width: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, word_width)
        nn.init.xavier_uniform_(self.embedding.weight)
        self.gru = nn.GRU(word_width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, texts: TokenBatch) -> Tensor:
        # Packed, for the backward direction must begin at a text's own end.
        packed = pack_padded_sequence(
            self.embedding(texts.ids), texts.lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, states = self.gru(packed)
        return torch.cat([states[0], states[1]], dim=1)


class MaxLstm(nn.Module):
    """Words → (B, d), a Linear of the maximum over an LSTM's steps."""

    def __init__(self, words: int, word_width: int, lstm_width: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, word_width)
        nn.init.xavier_uniform_(self.embedding.weight)
        self.lstm = nn.LSTM(word_width, lstm_width, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(lstm_width, width)

    def forward(self, texts: TokenBatch, *, over_padding: bool | None = None) -> Tensor:
        """Encode texts.

        Args:
            over_padding: whether steps after a text's end count, as they do in the released code;
                None counts them in training.
        """
        hidden, _ = self.lstm(self.embedding(texts.ids))
        if over_padding is None:
            over_padding = self.training
        if not over_padding:
            hidden = hidden.masked_fill(~texts.mask[:, :, None], -torch.inf)
        return self.output(self.dropout(hidden.amax(dim=1)))  # type: ignore[no-any-return]  # nn.Module is untyped


class ChannelAttention(nn.Sequential):
    """(B, d) texts → (B, d) weights of the channels, which sum to 1."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Softmax(dim=1)
        )


class ArtemisNetwork(nn.Module):
    """Pictures and texts → queries of four vectors and a gallery of one, for `score`."""

    def __init__(self, shape: ArtemisShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.trunk = None if shape.trunk is None else make_trunk(shape.trunk)
        channels = shape.image_width if self.trunk is None else self.trunk.widths[1]
        self.image_projection = nn.Linear(channels, width)
        self.text: nn.Module
        if not shape.words:
            self.text = nn.Linear(shape.text_width, width)
        elif shape.text_tower == "bigru":
            self.text = WordGru(shape.words, shape.word_width, width)
        else:
            self.text = MaxLstm(shape.words, shape.word_width, shape.lstm_width, width)
        self.transform = nn.Linear(width, width)
        self.explicit_attention = ChannelAttention(width)
        self.implicit_attention = ChannelAttention(width)
        self.temperature = nn.Parameter(torch.tensor([TEMPERATURE]))

    def embed_images(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) pixels → (B, d) unit vectors; (B, C) frozen features → (B, d) of any length.

        These are also what is ranked.
        """
        if self.trunk is None:
            return self.image_projection(pictures)  # type: ignore[no-any-return]  # the same
        pooled = pool_cubes(self.trunk(pictures).layer4)
        return normalize(self.image_projection(pooled), dim=1)

    def embed_texts(self, texts: Texts) -> Tensor:
        """B texts → (B, d) unit vectors."""
        return normalize(self.text(texts), dim=1)

    def compose(self, references: Tensor, texts: Texts) -> Tensor:
        """References as `embed_images` takes them, and texts → (B, 4, d) queries for `score`."""
        return self.combine(self.embed_images(references), self.embed_texts(texts))

    def combine(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, d) image vectors and (B, d) text vectors → (B, 4, d): u, w² of EM, then of IS."""
        explicit = self.explicit_attention(texts)
        implicit = self.implicit_attention(texts)
        wanted = _unit(self.transform(texts))
        seen = _unit(implicit * images)
        factors = [explicit * wanted, explicit.square(), implicit * seen, implicit.square()]
        return torch.stack(factors, dim=1)

    sees_maps = False
    """Whether a reference's vector is not enough for a query."""

    def compute_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over a batch's targets."""
        queries = self.compose(batch.references, batch.texts)
        scores = score(queries, self.embed_images(batch.targets))
        return tempered_score_loss(scores, self.temperature)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], trunk: str = "resnet50") -> ArtemisNetwork:
        """Make the network of the authors' weights; for use within `loading_network`.

        Args:
            trunk: its name, where the file is no network over frozen features.
        """
        frozen = "img_enc.linear.weight" in state
        lstm = _LSTM_OUTPUT in state
        words, word_width = state["txt_enc.embed.weight"].shape
        shape = ArtemisShape(
            width=state["Transform_m.0.weight"].shape[0],
            trunk=None if frozen else trunk,
            image_width=state["img_enc.linear.weight"].shape[1] if frozen else 0,
            words=words,
            word_width=word_width,
            text_tower="lstm" if lstm else "bigru",
            lstm_width=state[_LSTM_OUTPUT].shape[1] if lstm else 1024,
        )
        with torch.random.fork_rng(devices=[]):
            network = cls(shape)
        fill_network(network, rename_official(state))
        return network


def _unit(vectors: Tensor) -> Tensor:
    squares = vectors.square().sum(dim=1, keepdim=True)
    return vectors / squares.clamp(min=_LEAST_SQUARE).sqrt()


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
            UsageError: there is a file, and the backbone reads the texts itself, or the file has
                none of the words.
            MissingData, CorruptData: as `read_word_vectors`.
        """
        network, words = super().start(settings, towers, texts)
        if not settings.get("word_vectors"):
            return network, words
        if words is None:
            raise UsageError(
                "word_vectors must be left out over a backbone with a text tower, which reads the "
                f"texts itself, got {settings['word_vectors']}"
            )
        weight, path = network.text.embedding.weight, Path(settings["word_vectors"])
        found = read_word_vectors(path, words.words, weight.shape[1])
        if not found:
            raise UsageError(
                f"{path} must have vectors of some of the training's {len(words):,} words, got none"
            )
        nn.init.normal_(weight)
        with torch.no_grad():
            for row, word in enumerate(words.words):
                if word in found:
                    weight[row] = found[word]
        return network, words

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return score(queries, gallery)


def rename_official(state: Mapping[str, T]) -> dict[str, T]:
    """Put our names in place of naver/artemis's.

    Raises:
        ValueError: a name is unknown.
    """
    steps = _OFFICIAL_LSTM if _LSTM_OUTPUT in state else _OFFICIAL_GRU
    return rename(state, {**_OFFICIAL_NAMES, **steps})


_OFFICIAL_NAMES = {
    "temperature": "temperature",
    "img_enc.cnn.": "trunk.",
    "img_enc.fc.": "image_projection.",
    "img_enc.linear.": "image_projection.",
    "txt_enc.embed.": "text.embedding.",
    "Transform_m.0.": "transform.",
    "Attention_EM.attention.": "explicit_attention.",
    "Attention_IS.attention.": "implicit_attention.",
}
_LSTM_OUTPUT = "txt_enc.sent_enc.2.weight"
_OFFICIAL_GRU = {"txt_enc.sent_enc.": "text.gru."}
_OFFICIAL_LSTM = {"txt_enc.sent_enc.0.": "text.lstm.", "txt_enc.sent_enc.2.": "text.output."}
