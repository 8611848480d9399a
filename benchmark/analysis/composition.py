"""Whether queries ask for composition, or are solved from their picture or their text alone.

The rule is that of CIRCUS (arXiv 2605.14787), over a pool of records of one board: a query is
`shortcut_solvable` if a record of the pool finds a positive within k from the picture alone or
from the text alone, `composition_required` if none does and one that sees both does, else
`unresolved`. The last two are shortcut-free. Means are over queries and not over groups, since a
group may have no query of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cirbench.benchmark.analysis.board_statistics import (
    Standing,
    make_standings,
    subtract_best,
)
from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.compare import identify, matches
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.kept import keep
from cirbench.benchmark.scoring.bootstrap import Design, make_intervals

K = 10
SOLVABLE, REQUIRED, UNRESOLVED = "shortcut_solvable", "composition_required", "unresolved"
CATEGORIES = (SOLVABLE, REQUIRED, UNRESOLVED)
"""In the words of CIRCUS."""
SUBSETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "all": CATEGORIES,
        "shortcut-free": (REQUIRED, UNRESOLVED),
        "composition required": (REQUIRED,),
    }
)
"""What metrics are averaged over → the categories of its queries."""
IMAGE, TEXT = "image-only", "text-only"
"""The methods that see a query's picture alone, and its text alone."""

Names = NDArray[np.str_]
Ranks = NDArray[np.int64]


class Labels(Protocol):
    """Where the categories of a board's queries come from."""

    @property
    def identity(self) -> tuple[object, ...]:
        """All that decides them."""

    @property
    def category(self) -> Names:
        """(Q,) one of `CATEGORIES`, in the board's order."""

    def as_dict(self) -> dict[str, Any]:
        """What decided, as plain data."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The records of a board that decide, by what they see of a query.

    Attributes:
        k: a query is found where a positive is among so many of the best.
    """

    k: int
    image: tuple[Record, ...]
    text: tuple[Record, ...]
    composed: tuple[Record, ...]

    @property
    def _sides(self) -> Mapping[str, tuple[Record, ...]]:
        return {"image": self.image, "text": self.text, "composed": self.composed}

    @property
    def identity(self) -> tuple[object, ...]:
        sides = self._sides.values()
        return (self.k, *([record.identity for record in side] for side in sides))

    def as_dict(self) -> dict[str, Any]:
        sides = {name: list(map(identify, side)) for name, side in self._sides.items()}
        return {"k": self.k, **sides}

    @cached_property
    def ranks(self) -> Mapping[str, Ranks]:
        """What is seen → (Q,) the best rank that a record of the pool gives a positive, else 0."""
        return {name: _find_best_ranks(side) for name, side in self._sides.items()}

    @cached_property
    def found(self) -> Mapping[str, NDArray[np.bool_]]:
        """What is seen → (Q,) whether that is enough to find a positive within k."""
        return {name: (ranks > 0) & (ranks <= self.k) for name, ranks in self.ranks.items()}

    @property
    def category(self) -> Names:
        alone = self.found["image"] | self.found["text"]
        return np.where(alone, SOLVABLE, np.where(self.found["composed"], REQUIRED, UNRESOLVED))


def _find_best_ranks(records: Sequence[Record]) -> Ranks:
    ranks = np.stack([record.read_first_ranks() for record in records])
    never = np.iinfo(ranks.dtype).max
    best = np.where(ranks > 0, ranks, never).min(axis=0)
    return np.where(best == never, 0, best)


def find_pool(board: Board, k: int = K) -> Pool | None:
    """Pool all records of a board; None where it lacks one of the picture, the text or both."""
    of = [{IMAGE: "image", TEXT: "text"}.get(r.cell.method, "composed") for r in board.records]
    sides = {
        name: tuple(r for r, side in zip(board.records, of, strict=True) if side == name)
        for name in ("image", "text", "composed")
    }
    return Pool(k=k, **sides) if all(sides.values()) else None


def audit_board(board: Board) -> Audit | None:
    """Audit the headline with all records of a board, where they suffice for that."""
    pool = find_pool(board)
    return Audit(board=board, labels=pool, metrics=(board.headline,)) if pool else None


def choose_pool(
    board: Board,
    root: Path,
    *,
    k: int = K,
    image: Sequence[str] = (),
    text: Sequence[str] = (),
    composed: Sequence[str] = (),
) -> Pool:
    """Pool the records that names stand for, as `compare` takes them below `root`.

    Args:
        image, text: none means the methods `image-only` and `text-only`.
        composed: none means every other record.

    Raises:
        UsageError: a name stands for no record of the board, or a record would be on two sides.
    """
    sides = {
        "image": _choose(board, root, image or [IMAGE]),
        "text": _choose(board, root, text or [TEXT]),
    }
    alone = {record.path for side in sides.values() for record in side}
    others = tuple(record for record in board.records if record.path not in alone)
    sides["composed"] = _choose(board, root, composed) if composed else others
    paths = [record.path for side in sides.values() for record in side]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise UsageError(
            f"{twice[0]} must be on one side of the audit only: image, text or composed"
        )
    if not others:
        raise UsageError(
            f"{board.title}: an audit needs a record of a method that sees picture and text; make "
            f"one with bench run"
        )
    return Pool(k=k, **sides)


def _choose(board: Board, root: Path, names: Sequence[str]) -> tuple[Record, ...]:
    for name in names:
        if not any(matches(record, name, root) for record in board.records):
            known = ", ".join(sorted({record.method_label for record in board.records}))
            raise UsageError(
                f"{board.title}: an audit needs a record {name!r}, got {known}; make it with "
                f"bench run, or choose others by --image, --text and --composed"
            )
    return tuple(r for r in board.records if any(matches(r, name, root) for name in names))


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the categories of a board's queries come to.

    Attributes:
        shares: category → percent of all queries.
        scores: subset → metric → a standing for each row of the board; a subset without a query is
            left out.
    """

    shares: Mapping[str, Interval]
    scores: Mapping[str, Mapping[str, tuple[Standing, ...]]]


_FINDINGS = TypeAdapter(Findings)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A board whose queries have categories, and the metrics that are averaged over these."""

    board: Board
    labels: Labels
    metrics: tuple[str, ...]

    @cached_property
    def findings(self) -> Findings:
        """Shares and scores, with 95 % intervals over one draw of references for all of them."""
        kept = ("composition", self.metrics, self.labels.identity, *self.board.identity)
        return keep(_FINDINGS, kept, partial(_find, self.board, self.labels, self.metrics))

    def as_dict(self) -> dict[str, Any]:
        """Give plain data, for --json."""
        cell, found = self.board.first.cell, self.findings
        return {
            "task": self.board.first.task_label,
            "split": cell.split,
            "protocol": cell.protocol,
            "decided_by": self.labels.as_dict(),
            "shares": {name: asdict(share) for name, share in found.shares.items()},
            "records": [
                {
                    **identify(record),
                    "metrics": {
                        subset: {m: asdict(standings[i]) for m, standings in scores.items()}
                        for subset, scores in found.scores.items()
                    },
                }
                for i, record in enumerate(self.board.rows)
            ],
        }


def _find(board: Board, labels: Labels, metrics: Sequence[str]) -> Findings:
    category = labels.category
    design = _make_design(board, category)
    scores: dict[str, dict[str, tuple[Standing, ...]]] = {name: {} for name in design.rows}
    for metric in metrics:
        values = board.stack_values(metric)
        means, draws = design.means(values), design.draws(values)
        for row, (name, size) in enumerate(zip(design.rows, design.row_sizes, strict=True)):
            intervals = make_intervals(means[row], draws[:, row], [size] * len(board.rows))
            from_best = subtract_best(means[row], draws[:, row], size)
            scores[name][metric] = make_standings(intervals, from_best)
    return Findings(shares=_find_shares(design, category), scores=scores)


def _find_shares(design: Design, category: Names) -> dict[str, Interval]:
    is_of = 100.0 * np.stack([category == name for name in CATEGORIES], axis=1)
    means, draws = design.means(is_of)[0], design.draws(is_of)[:, 0]
    shares = make_intervals(means, draws, [len(category)] * len(CATEGORIES))
    return dict(zip(CATEGORIES, shares, strict=True))


def _make_design(board: Board, category: Names) -> Design:
    """Make the design whose rows are the subsets that have a query."""
    within = {name: np.isin(category, own) for name, own in SUBSETS.items() if name != "all"}
    subsets = {name: rows for name, rows in within.items() if rows.any()}
    everything = ["all"] * len(category)
    return Design.of(board.queries.reference, everything, ["all", *subsets], {}, subsets)
