"""Prompts with a pseudo-word: one a query, or one for each order of its two captions."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.method import Queries


def compose_prompts(queries: Queries, words: Tensor, *families: str) -> Tensor:
    """B queries → (B, C) unit vectors of their prompts with (B, W) pseudo-words.

    Where the protocol has templates of the family for both orders of two captions (`FAMILY` and
    `FAMILY-reversed`), the result is the normalised mean of the two unit vectors.

    Args:
        families: of templates; the first that the protocol has is taken.
    """
    templates = queries.protocol.templates
    family = next((name for name in families if name in templates), families[0])
    first = normalize(queries.prompt_features(words, family), dim=-1)
    if f"{family}-reversed" not in templates:
        return first
    second = normalize(queries.prompt_features(words, f"{family}-reversed"), dim=-1)
    return normalize(first + second, dim=-1)
