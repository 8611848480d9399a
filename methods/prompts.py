"""Prompts with a pseudo-word: one a query, or one for each order of its two captions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.method import Queries


def compose_prompts(queries: Queries, words: Tensor, *families: str) -> Tensor:
    """B queries → (B, C) unit vectors of their prompts with (B, W) pseudo-words.

    Args:
        families: as `average_orders`.
    """
    return average_orders(queries, lambda family: queries.prompt_features(words, family), *families)


def average_orders(queries: Queries, encode: Callable[[str], Tensor], *families: str) -> Tensor:
    """B queries → (B, C) unit vectors of what `encode` gives for a family of templates.

    Where the protocol has templates of the family for both orders of two captions (`FAMILY` and
    `FAMILY-reversed`), the result is the normalised mean of the two unit vectors.

    Args:
        encode: a family → (B, C).
        families: of templates; the first that the protocol has is taken.
    """
    templates = queries.protocol.templates
    family = next((name for name in families if name in templates), families[0])
    first = normalize(encode(family), dim=-1)
    if f"{family}-reversed" not in templates:
        return first
    second = normalize(encode(f"{family}-reversed"), dim=-1)
    return normalize(first + second, dim=-1)
