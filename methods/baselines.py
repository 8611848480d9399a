"""The single modalities, and their plain sum: the rows every composed method is held against.

As in Pic2Word (Saito et al., CVPR 2023, arXiv 2302.03084), section 4, and its released evaluation
(google-research/composed_image_retrieval, src/eval_utils.py). With v the reference's embedding and
t the text's, and n(x) = x / |x|:

    image-only  n(v)        text-only  n(t)        image-text  n(n(v) + n(t))

CLIP4Cir's sum is n(v + t) over the raw features; which of the two a protocol wants is its
`image_text_sum`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.method import Method, Queries


class ImageOnly(Method):
    """The reference picture's embedding alone."""

    name: ClassVar[str] = "image-only"

    def compose(self, queries: Queries) -> Tensor:
        return normalize(queries.reference_features, dim=-1)


class TextOnly(Method):
    """The text's embedding alone."""

    name: ClassVar[str] = "text-only"

    def compose(self, queries: Queries) -> Tensor:
        return normalize(queries.text_features(), dim=-1)


class ImageText(Method):
    """The sum of the two embeddings, with equal weights."""

    name: ClassVar[str] = "image-text"

    def compose(self, queries: Queries) -> Tensor:
        image, text = queries.reference_features, queries.text_features()
        if queries.protocol.image_text_sum == "normalised":
            image, text = normalize(image, dim=-1), normalize(text, dim=-1)
        return normalize(image + text, dim=-1)
