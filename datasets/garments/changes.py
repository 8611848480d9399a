"""What may be asked of photographs: one attribute changed, the other kept; drawn with a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cirbench.datasets.garments.captions import word_change
from cirbench.datasets.garments.photographs import Photograph

GROUPS = ("colour", "kind")
"""What is changed."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A garment, and what its colour or kind is to be instead.

    Attributes:
        reference: its row among the photographs.
        wanted: the other colour or kind.
        right: the rows of all photographs that answer.
    """

    reference: int
    group: str
    wanted: str
    right: tuple[int, ...]

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every sentence that asks for it."""
        return word_change(self.group, self.wanted)


def list_changes(photographs: Sequence[Photograph], group: str) -> Iterator[Change]:
    """Every change of this attribute that at least one photograph answers."""
    kept = "kind" if group == "colour" else "colour"
    rows: dict[tuple[str, str], list[int]] = {}
    for row, photograph in enumerate(photographs):
        rows.setdefault((getattr(photograph, kept), getattr(photograph, group)), []).append(row)
    for (same, wanted), right in rows.items():
        for reference, photograph in enumerate(photographs):
            if getattr(photograph, kept) == same and getattr(photograph, group) != wanted:
                yield Change(reference=reference, group=group, wanted=wanted, right=tuple(right))


def draw_changes(
    photographs: Sequence[Photograph], *, of_each_group: int, fewest_right: int, seed: int
) -> list[Change]:
    """Distinct changes, as many of colour as of kind.

    Args:
        fewest_right: so many photographs answer each, or more.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for group in GROUPS:
        found = [c for c in list_changes(photographs, group) if len(c.right) >= fewest_right]
        drawn += [found[i] for i in rng.permutation(len(found))[:of_each_group]]
    return drawn
