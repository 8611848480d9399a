"""Losses of the supervised networks, and which triplets they are taken over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus


def batch_cross_entropy(scores: Tensor) -> Tensor:
    """(B, B) scores of queries against the targets of their batch, row i with column i."""
    return cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def scaled_cosine_loss(queries: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TIRG's and MAAF's: cross-entropy over (B, d) queries and targets, both of length `scale`.

    The logits are thus scale² times the cosine: 16 times at first, where scale is 4.
    """
    cosine = normalize(queries, dim=1) @ normalize(targets, dim=1).T
    return batch_cross_entropy(scale.square() * cosine)


def tempered_score_loss(scores: Tensor, temperature: Tensor) -> Tensor:
    """ARTEMIS's: cross-entropy over (B, B) scores, times exp(temperature)."""
    return batch_cross_entropy(temperature.exp() * scores)


def soft_triplet_loss(vectors: Tensor, triplets: Tensor) -> Tensor:
    """Mean of softplus(|a - p|² - |a - n|²) over triplets.

    The gradient is that of this formula. The backward functions that were released with TIRG and
    CIRPLANT lack the factor 2 of a squared distance and give half of it: under SGD their learning
    rate is half the stated one, and the norm that they clip is half the true one.

    Args:
        vectors: (N, d), in TIRG and CIRPLANT each of length `scale`.
        triplets: (T, 3) int64, rows of `vectors`: anchor, positive, negative.
    """
    anchors, positives, negatives = vectors[triplets].unbind(dim=1)
    near = (anchors - positives).square().sum(dim=1)
    far = (anchors - negatives).square().sum(dim=1)
    return softplus(near - far).mean()


def draw_pair_triplets(pairs: int, rng: np.random.Generator, each: int = 3) -> Tensor:
    """Draw TIRG's triplets over the rows of [B queries; B targets].

    Every row is an anchor, the other of its pair the positive, and up to `each` distinct rows of
    other pairs are the negatives.

    Raises:
        ValueError: fewer than 2 pairs, so that there are no negatives.
    """
    if pairs < 2:
        raise ValueError(f"triplets need at least 2 pairs in a batch, got {pairs}")
    rows = np.arange(2 * pairs)
    return torch.tensor(
        [
            (anchor, (anchor + pairs) % (2 * pairs), negative)
            for anchor in rows
            for negative in rng.permutation(rows[rows % pairs != anchor % pairs])[:each]
        ]
    )


def draw_set_triplets(
    positives: Sequence[Sequence[int]], rng: np.random.Generator, each: int = 6
) -> Tensor:
    """Draw CIRPLANT's triplets over the rows of [B queries; B targets; members of image sets].

    The anchors are the queries; the negatives of one are the queries and targets of the others. Up
    to `each` distinct triplets of an anchor are drawn. (A slip in the released sampler drops some
    negatives; it is left out.)

    Args:
        positives: rows of each query's positives, which are members of its image set.

    Raises:
        ValueError: no triplet can be drawn.
    """
    batch = len(positives)
    rows = np.arange(2 * batch)
    triplets = []
    for anchor, own in enumerate(positives):
        negatives = rows[rows % batch != anchor]
        chosen = rng.permutation(len(own) * len(negatives))[:each]
        triplets += [
            (anchor, own[i // len(negatives)], negatives[i % len(negatives)]) for i in chosen
        ]
    if not triplets:
        raise ValueError("triplets need at least 2 queries in a batch and one with a positive")
    return torch.tensor(triplets)
