"""Towers that several supervised networks share, and the widths that describe them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cirbench.methods.supervised.vocabulary import TokenBatch

Texts = TokenBatch | Tensor
"""Words for a text tower, or (B, C) features of texts that a frozen backbone made."""


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """What a network sees of pictures and texts. Its fields are JSON, for a checkpoint's header.

    Pictures come as pixels for a trunk of the network's own, or as frozen features; texts as words,
    or as frozen features.

    Attributes:
        width: of the space in which queries meet the gallery (d).
        trunk: its name (`trunks.TRUNKS`), or None.
        image_width: of the frozen image features; 0 with a trunk.
        words: the vocabulary's size; 0 over frozen text features.
        text_width: of the frozen text features; 0 with words.

    Raises:
        ValueError: both or neither of two that exclude each other.
    """

    width: int = 512
    trunk: str | None = None
    image_width: int = 0
    words: int = 0
    text_width: int = 0

    def __post_init__(self) -> None:
        if (self.trunk is None) == (self.image_width == 0):
            raise ValueError("a network must have either a trunk or the width of image features")
        if (self.words == 0) == (self.text_width == 0):
            raise ValueError("a network must have either words or the width of text features")


class WordLstm(nn.Module):
    """TIRG's text tower, which MAAF shares: Embedding, LSTM, Dropout, Linear.

    The LSTM runs one way, so that what fills up a batch never changes the steps before it.
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(width, width)

    def forward(self, texts: TokenBatch) -> Tensor:
        """Give every step: (B, L) words → (B, L, d)."""
        hidden, _ = self.lstm(self.embedding(texts.ids))
        return self.output(self.dropout(hidden))  # type: ignore[no-any-return]  # nn.Module is untyped

    def encode_last(self, texts: TokenBatch) -> Tensor:
        """Give the step of each text's last word: (B, L) words → (B, d)."""
        hidden, _ = self.lstm(self.embedding(texts.ids))
        last = hidden[torch.arange(len(hidden), device=hidden.device), texts.lengths - 1]
        return self.output(self.dropout(last))  # type: ignore[no-any-return]  # the same
