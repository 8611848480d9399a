"""Whose work is what, where several jobs or devices embed the same pictures.

Shares are cut between batches. A batch has the pictures that it has where one job does all, so each
vector has the same bits; how the rows lie in shards may differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cirbench.benchmark.runtime.errors import UsageError


@dataclass(frozen=True)
class Share:
    """Part `number`, counted from 1, of `count`."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read "2/8".

        Raises:
            UsageError: it is not I/N with I from 1 to N.
        """
        found = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", text, re.ASCII)
        share = cls(*map(int, found.groups())) if found else None
        if share is None or share.number > share.count:
            raise UsageError(f"a shard must be I/N with I from 1 to N, as 2/8, got {text!r}")
        return share

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def check(self, pictures: int) -> None:
        """Check that there is a picture a share at least; raises UsageError."""
        if self.count > pictures:
            raise UsageError(
                f"a gallery's shards must be no more than its {pictures:,} pictures, got "
                f"{self.count:,}"
            )

    def count_own(self, items: int) -> int:
        """About how many of so many items are this share's."""
        return round(items / self.count)

    def choose(self, items: Sequence[str], shard_rows: int, batch_size: int) -> list[list[str]]:
        """Choose this share of some items: pieces of what one job would store as one shard."""
        batches = [
            (shard, items[start : min(start + batch_size, shard + shard_rows)])
            for shard in range(0, len(items), shard_rows)
            for start in range(shard, min(shard + shard_rows, len(items)), batch_size)
        ]
        first, end = (n * len(batches) // self.count for n in (self.number - 1, self.number))
        pieces: dict[int, list[str]] = {}
        for shard, batch in batches[first:end]:
            pieces.setdefault(shard, []).extend(batch)
        return list(pieces.values())


WHOLE = Share()


def count_shares(pictures: int, wanted: int, batch_size: int) -> int:
    """Count the shares that have a batch of their own to embed."""
    return min(wanted, max(1, math.ceil(pictures / batch_size)))
