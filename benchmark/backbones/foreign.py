"""Tokenizers of the transformers library, as a text tower was trained with.

A tokenizer that is not CLIP's may drop the placeholder as punctuation, or have no token for it.
Then two words stand in for it in turn (`find_carriers`): where the two rows of tokens differ is the
pseudo-word's place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cirbench.benchmark.runtime.errors import CorruptData, UsageError

_CARRIERS = ("dog", "cat", "car", "house", "red", "blue", "photo")
_LONG = " ".join(_CARRIERS * 200)


@dataclass(frozen=True, kw_only=True)
class ForeignTokenizer:
    """A tokenizer of transformers, with what open_clip does before and after it.

    Attributes:
        own: the tokenizer.
        clean: what is done to a text before.
        zeroed: a token that becomes 0 after, if any.
    """

    own: Any
    clean: Callable[[str], str] = str
    zeroed: int | None = None

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts → their token ids with what marks start and end, uncut and unpadded."""
        rows = self.own([self.clean(text) for text in texts])["input_ids"] if texts else []
        return [[0 if token == self.zeroed else token for token in row] for row in rows]

    @property
    def vocabulary(self) -> int:
        """One more than its highest token."""
        return int(max(self.own.get_vocab().values(), default=-1)) + 1

    @property
    def content(self) -> str:
        """All that it is made of, as text."""
        described = describe_tokenizer(self.own)
        return f"{described} {getattr(self.clean, '__name__', self.clean)} {self.zeroed}"

    def describe(self, name: str, context: int) -> dict[str, Any]:
        """What a `TorchBackbone` has to know of it.

        Raises:
            UsageError, CorruptData: as `find_pad_id` and `find_carriers`.
        """
        return {
            "tokenize": self,
            "tokenizer_content": self.content,
            "vocabulary": self.vocabulary,
            "pad_id": self.find_pad_id(name, context),
            "carriers": find_carriers(name, self),
        }

    def find_pad_id(self, name: str, context: int) -> int:
        """The token that fills a text up, of a tokenizer that cuts and fills texts at their end.

        Raises:
            CorruptData: it has none.
            UsageError: it fills or cuts texts in another way than we would.
        """
        pad = self.own.pad_token_id
        if pad is None:
            raise CorruptData(f"the tokenizer of {name} must have a padding token")
        [row] = self([_LONG])
        settings = {"max_length": context, "padding": "max_length", "truncation": True}
        cut, filled = self.own([self.clean(_LONG), self.clean("dog")], **settings)["input_ids"]
        short = self.own([self.clean("dog")])["input_ids"][0]
        ours = [*row[: context - 1], row[-1]]
        theirs = [0 if token == self.zeroed else token for token in cut]
        if ours != theirs or filled != [*short, *[pad] * (context - len(short))]:
            raise UsageError(
                f"the tokenizer of {name} must cut and fill texts at their end, before what marks "
                f"it, and does so otherwise; such a backbone is not supported"
            )
        return int(pad)


def describe_tokenizer(tokenizer: Any) -> str:
    """All that a tokenizer of transformers is made of, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return f"{type(tokenizer).__qualname__} {vocabulary}"


def find_inner(tokenize: Callable[[Sequence[str]], list[list[int]]], text: str) -> list[int]:
    """The tokens of a text without what marks its start and end."""
    (empty, row) = tokenize(["", text])
    lead = 0
    while lead < len(empty) and len(row) > len(empty) and row[lead] == empty[lead]:
        lead += 1
    return row[lead : len(row) - (len(empty) - lead)]


def find_carriers(
    name: str, tokenizer: ForeignTokenizer, placeholder: str = "*"
) -> tuple[str, ...]:
    """Two words that stand in for the placeholder; none where it is a token of its own.

    Raises:
        UsageError: no two words can be told apart at one place of a sentence.
    """
    inner, unknown = find_inner(tokenizer, placeholder), tokenizer.own.unk_token_id
    if len(inner) == 1 and inner[0] != unknown:
        return ()
    single = [
        word
        for word in _CARRIERS
        if len(found := find_inner(tokenizer, word)) == 1 and found[0] != unknown
    ]
    for word in single[1:]:
        if all(_differ_once(tokenizer, text, single[0], word) for text in _SENTENCES):
            return single[0], word
    raise UsageError(
        f"the tokenizer of {name} must have a token for {placeholder} or for two of the words "
        f"{', '.join(_CARRIERS)}, since pseudo-words are put in their place"
    )


_SENTENCES = ("{}", "a photo of {}", "{} , that is red", "a {} beside it.")


def _differ_once(tokenizer: ForeignTokenizer, text: str, one: str, other: str) -> bool:
    first, second = tokenizer([text.format(one), text.format(other)])
    return (
        len(first) == len(second) and sum(a != b for a, b in zip(first, second, strict=True)) == 1
    )
