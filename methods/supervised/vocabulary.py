"""From texts to the ids of words, as the released codes of TIRG, MAAF and ARTEMIS make them.

None of them cuts rare words. Fashion-IQ's training captions have 3,945 words in the way of TIRG and
MAAF, and 3,775 in that of ARTEMIS; each vocabulary has its special words besides.
"""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Texts as ids of words.

    Attributes:
        ids: (B, L) int64; after a text's end 0, which `lengths` alone tells from a word.
        lengths: (B,) int64, each at least 1 and at most L.
    """

    ids: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, true where there is a word."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        return positions < self.lengths[:, None]

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move both tensors."""
        return TokenBatch(self.ids.to(device), self.lengths.to(device))


def pad(rows: Sequence[Sequence[int]], length: int | None = None) -> TokenBatch:
    """Pad rows of ids with zeros, to the longest of them or to `length`.

    Raises:
        ValueError: a row is empty, or longer than `length`.
    """
    lengths = [len(row) for row in rows]
    length = max(lengths) if length is None else length
    if not 1 <= min(lengths) <= max(lengths) <= length:
        raise ValueError(
            f"texts must have 1 to {length} tokens, got {min(lengths)} to {max(lengths)}"
        )
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return TokenBatch(ids, torch.tensor(lengths))


@dataclass(frozen=True)
class Vocabulary(ABC):
    """Words by their ids, and how a text is split into them.

    `words` is all that a checkpoint has to keep of it.

    Raises:
        ValueError: the special words are not the first ones, or a word occurs twice.
    """

    words: tuple[str, ...]
    specials: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if self.words[: len(self.specials)] != self.specials:
            raise ValueError(
                f"a vocabulary must begin with {' '.join(self.specials)}, got "
                f"{' '.join(self.words[: len(self.specials)])!r}"
            )
        if len(self._ids) < len(self.words):
            raise ValueError("a vocabulary must hold each word once")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @classmethod
    @abstractmethod
    def build(cls, texts: Iterable[str]) -> Vocabulary:
        """Gather the words of texts."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Split a text and look its words up; never empty."""

    def encode_batch(self, texts: Sequence[str]) -> TokenBatch:
        """Encode texts, and pad them to the longest."""
        return pad([self.encode(text) for text in texts])


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def split_words(text: str) -> list[str]:
    """Split as TIRG and MAAF do: what is not ascii and all punctuation vanish within words."""
    ascii_only = text.encode("ascii", "ignore").decode("ascii")
    return ascii_only.lower().translate(_PUNCTUATION).split()


@dataclass(frozen=True)
class TirgVocabulary(Vocabulary):
    """TIRG's: words in alphabetical order; <UNK> is also what fills up a batch."""

    specials: ClassVar[tuple[str, ...]] = ("<UNK>",)

    @classmethod
    def build(cls, texts: Iterable[str]) -> TirgVocabulary:
        """Gather the words of texts."""
        return cls((*cls.specials, *sorted({word for text in texts for word in split_words(text)})))

    def encode(self, text: str) -> list[int]:
        """Look words up; a text without any is one <UNK>, on which the released code breaks off."""
        return [self._ids.get(word, 0) for word in split_words(text)] or [0]


@dataclass(frozen=True)
class MaafVocabulary(TirgVocabulary):
    """MAAF's: words in the order in which they appear, after the one that joins two captions."""

    specials: ClassVar[tuple[str, ...]] = ("<UNK>", "inadditiontothat")

    @classmethod
    def build(cls, texts: Iterable[str]) -> MaafVocabulary:
        """Gather the words of texts, in their order."""
        found = dict.fromkeys(word for text in texts for word in split_words(text))
        return cls((*cls.specials, *(word for word in found if word not in cls.specials)))


AND = "<and>"
"""What joins two captions of ARTEMIS."""
_CONTRACTIONS = re.compile(r"\b(?:(can)(not)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(wan)(na))\b")


def split_tokens(text: str) -> list[str]:
    """Split as ARTEMIS does: ascii letters and parentheses stay, each of these by itself.

    Slashes and hyphens separate. Six words are split in two, as NLTK's word tokens are: over
    letters, spaces and parentheses they differ from a split at white space in nothing else.
    """
    spaced = re.sub(r"[/\\-]", " ", text)
    kept = re.sub(r"[^a-zA-Z() ]", "", spaced).lower()
    apart = re.sub(r"([()])", r" \1 ", kept)
    return _CONTRACTIONS.sub(lambda match: " ".join(filter(None, match.groups())), apart).split()


@dataclass(frozen=True)
class ArtemisVocabulary(Vocabulary):
    """ARTEMIS's: words in the order in which they appear; a text stands in <start> and <end>."""

    specials: ClassVar[tuple[str, ...]] = ("<pad>", "<start>", AND, "<end>", "<unk>")

    @classmethod
    def build(cls, texts: Iterable[str]) -> ArtemisVocabulary:
        """Gather the words of captions, in their order."""
        captions = (caption for text in texts for caption in text.split(AND))
        return cls((*cls.specials, *dict.fromkeys(w for c in captions for w in split_tokens(c))))

    def encode(self, text: str) -> list[int]:
        """Look words up; captions joined by <and> are split apart there."""
        ids = [self._ids["<start>"]]
        for i, caption in enumerate(text.split(AND)):
            ids += [self._ids[AND]] if i else []
            ids += [self._ids.get(word, self._ids["<unk>"]) for word in split_tokens(caption)]
        return [*ids, self._ids["<end>"]]
