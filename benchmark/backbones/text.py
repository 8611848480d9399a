"""What the text towers of all backbones share: placeholders, context limits, pseudo-words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cirbench.benchmark.runtime.errors import TextTooLong, UsageError


@dataclass(frozen=True)
class Precision:
    """What the towers' weights are kept in, and what their products are computed in."""

    weights: torch.dtype
    compute: torch.dtype

    @property
    def autocast(self) -> bool:
        """Whether torch chooses per operation; norms and sums then stay in float32."""
        return self.weights != self.compute


PRECISIONS = {
    "fp32": Precision(torch.float32, torch.float32),
    "bf16": Precision(torch.bfloat16, torch.bfloat16),
    "fp16": Precision(torch.float16, torch.float16),
    "amp": Precision(torch.float32, torch.float16),
    "amp_bf16": Precision(torch.float32, torch.bfloat16),
}
"""By open_clip's names."""


def check_precision(name: str) -> None:
    """Raise UsageError if no precision has that name."""
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")


def find_placeholders(
    rows: Sequence[Sequence[int]],
    placeholder_id: int,
    prompts: Sequence[str],
    count: int | None = 1,
) -> list[list[int]]:
    """B rows of token ids → the places of each row's first `count` placeholders; None: of all.

    Raises:
        UsageError: a row has fewer.
    """
    found = [[i for i, token in enumerate(row) if token == placeholder_id] for row in rows]
    return check_places(found, prompts, count)


def check_places(
    found: list[list[int]], prompts: Sequence[str], count: int | None
) -> list[list[int]]:
    """The first `count` places of each prompt's placeholders; None: all.

    Raises:
        UsageError: a prompt has fewer.
    """
    if count is None:
        return found
    for prompt, places in zip(prompts, found, strict=True):
        if len(places) < count:
            has = f"{len(places)} of {count} placeholders" if count > 1 else "no placeholder"
            raise UsageError(
                f"the prompt {prompt!r} has {has}; write it as a word of its own, with spaces "
                f'around it ("a photo of * , red")'
            )
    return [places[:count] for places in found]


def check_context(lengths: Sequence[int], texts: Sequence[str], context_length: int) -> None:
    """Refuse texts longer than the context, start and end tokens counted.

    Raises:
        TextTooLong: names the first such text and how many tokens would be cut.
    """
    for text, length in zip(texts, lengths, strict=True):
        if length > context_length:
            raise TextTooLong(
                text,
                f"a text of {length} tokens exceeds the context of {context_length}, its last "
                f"{length - context_length} would be cut: {text!r}; shorten it, or use a protocol "
                f"that truncates",
            )


@contextmanager
def substitute_embeddings(
    embedding: nn.Module, places: Sequence[Sequence[int]], words: Tensor
) -> Iterator[None]:
    """Put words[i, p] at places[i][p] of row i of what `embedding` gives, in a block.

    Args:
        words: (B, P, W); with P = 1 the one word goes to all places of its row.

    The rest of the text tower runs as it does for plain text: position embeddings are added
    after, and the end of text is found in the original ids (Pic2Word replaces one token by one).
    """

    one = words.shape[1] == 1
    marked = [
        (row, place, 0 if one else p)
        for row, own in enumerate(places)
        for p, place in enumerate(own)
    ]

    def replace(_module: nn.Module, _args: object, embedded: Tensor) -> Tensor:
        index = torch.tensor(marked, dtype=torch.long, device=embedded.device)
        rows, columns, of = index.view(len(marked), 3).T
        put = words.to(embedded.device, embedded.dtype)[rows, of]
        return embedded.index_put((rows, columns), put)

    handle = embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
