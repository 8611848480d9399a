"""Boards: the records that may be compared, best first."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from cirbench.benchmark.analysis.seeds import merge_seeds
from cirbench.benchmark.api.per_query import PerQuery, Scores
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.kept import keep
from cirbench.benchmark.scoring.bootstrap import Array, Design, make_intervals
from cirbench.benchmark.scoring.summary import find_facts, make_design, read_scored

INTERVALS = TypeAdapter(list[Interval])
_KEPT = 8
"""How many records' per-query data are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """Records that may be compared: one task, split, protocol, gallery and set of queries.

    Attributes:
        records: of one seed each, best first by the headline metric's average.
        weights: digits of the backbone's weights, where one name stands for several.
    """

    records: tuple[Record, ...]
    weights: str = ""

    @property
    def first(self) -> Record:
        """The fields that all records of a board share are read off the first."""
        return self.records[0]

    @property
    def title(self) -> str:
        split, protocol = self.first.cell.split, self.first.protocol
        title = f"{self.first.task_label} · {split} · protocol {protocol.title}"
        return title + (f" · weights {self.weights}" if self.weights else "")

    @property
    def stem(self) -> str:
        """What the names of its plots begin with."""
        protocol = self.first.protocol
        gallery = self.first.fingerprints.gallery[:4]
        names = (
            self.first.cell.split,
            f"{protocol.name}-{protocol.hash}-{gallery}",
            self.weights,
        )
        return "--".join(slug(name) for name in names if name)

    @property
    def groups(self) -> list[str]:
        return list(self.first.groups)

    @property
    def averages(self) -> Mapping[str, Sequence[str]]:
        """Average name → the groups whose plain mean it is."""
        return self.first.averages

    @property
    def metrics(self) -> list[str]:
        return list(self.first.protocol.metrics)

    @property
    def headline(self) -> str:
        """The metric that ranks the rows."""
        return self.first.protocol.headline

    @property
    def group_metric(self) -> str:
        """The metric that is given by group."""
        return self.first.protocol.group_metric or self.headline

    @property
    def digest(self) -> str:
        """sha256 of everything that is shown."""
        shown = [
            (
                {**asdict(record.cell), "task": record.task_label},
                record.metrics,
                asdict(record.per_query),
            )
            for record in self.records
        ]
        return hashlib.sha256(json.dumps(shown, sort_keys=True, default=vars).encode()).hexdigest()

    @cached_property
    def queries(self) -> Scores:
        """The queries of all records, with the first record's values.

        Raises:
            CorruptData: a file is missing or altered, or two records are of other queries.
        """
        for record in self.records:
            if find_facts(record).order != find_facts(self.first).order:
                raise CorruptData(
                    f"{record.path} and {self.first.path} must have the same queries, as they "
                    f"share a protocol and annotations; run both cells again"
                )
        return self.first.scores

    @cached_property
    def design(self) -> Design:
        """Which reference and group each query is of."""
        return make_design(self.queries, self.groups, self.first.protocol)

    @cached_property
    def per_query(self) -> PerQueryCache:
        """Per-query data of each record, read when it is asked for.

        Raises:
            CorruptData: a file is missing or altered.
        """
        return PerQueryCache(self.records)

    @cached_property
    def rows(self) -> tuple[Record, ...]:
        """What tables have a row for: the records, with the mean over seeds in place of seeds."""
        return _rank(merge_seeds(self.records))

    def differences(self, average: str) -> list[Interval]:
        """Subtract the first row from each, in the headline metric, with paired intervals."""

        def compute() -> list[Interval]:
            means, draws = (p[..., self.design.rows.index(average), :] for p in self._headline)
            sizes = [self.first.counts.queries] * len(self.rows)
            return make_intervals(means - means[0], draws - draws[:, :1], sizes)

        return keep(INTERVALS, ("differences", average, *self.identity), compute)

    @property
    def identity(self) -> tuple[object, ...]:
        """All that decides what is computed of the rows together."""
        return tuple(row.identity for row in self.rows)

    @cached_property
    def _headline(self) -> tuple[Array, Array]:
        return self.sample(self.headline)

    @cached_property
    def row_counts(self) -> Counter[tuple[Any, ...]]:
        """How many rows have the same names."""
        return Counter(map(_describe, self.rows))

    def sample(self, metric: str) -> tuple[Array, Array]:
        """Sample one metric of R rows: (A + G, R) means and (resamples, A + G, R) draws.

        The same references are drawn for all, so that differences are paired.
        """
        design = self.design  # checks that all have the same queries
        values = self.stack_values(metric)
        return design.means(values), design.draws(values)

    def stack_values(self, metric: str) -> Array:
        """Stack the (Q,) values of R rows in one metric to (Q, R)."""
        column = self.metrics.index(metric)
        return np.stack([record.scores.values[:, column] for record in self.rows], axis=1)


class PerQueryCache:
    """Per-query data of records, the last few of which are kept: a large task's is gigabytes."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._read = lru_cache(_KEPT)(lambda index: self._records[index].read_per_query())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> PerQuery:
        return self._read(index)

    def __iter__(self) -> Iterator[PerQuery]:
        return map(self.__getitem__, range(len(self)))


def make_boards(records: Sequence[Record]) -> list[Board]:
    """Split records into boards, and rank each board's rows."""
    together: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        prints, protocol = record.fingerprints, record.protocol
        shared = (protocol.name, protocol.hash, prints.gallery, prints.annotations)
        key = (record.task_label, record.cell.split, *shared)
        together.setdefault(key, []).append(record)
    return [board for key in sorted(together) for board in _split(together[key])]


def select_boards(
    found: Sequence[Board], task: str, split: str | None, protocol: str | None
) -> list[Board]:
    """Select the boards of a task, and of one split and one protocol where these are given.

    Args:
        protocol: its name or its hash.

    Raises:
        MissingData: there is none.
    """
    wanted = [
        board
        for board in found
        if board.first.task_label == task
        and split in (None, board.first.cell.split)
        and protocol in (None, board.first.protocol.name, board.first.protocol.hash)
    ]
    if not wanted:
        there = "; ".join(board.title for board in found)
        raise MissingData(f"no records of that task, split and protocol; there are: {there}")
    return wanted


def _split(records: Sequence[Record]) -> list[Board]:
    """Make one board, or one for each set of weights that a backbone's name stands for."""
    names = {(r.cell.backbone, r.fingerprints.weights) for r in records}
    if len(names) == len({name for name, _ in names}):
        return [Board(records=_rank(records))]
    return [
        Board(records=_rank([r for r in records if r.fingerprints.weights == own]), weights=own[:8])
        for own in sorted({weights for _, weights in names})
    ]


def _rank(records: Sequence[Record]) -> tuple[Record, ...]:
    headline = records[0].protocol.headline
    return tuple(
        sorted(records, key=lambda r: (-r.metrics["average"][headline].value, str(r.path)))
    )


def name_row(board: Board, record: Record) -> tuple[str, str, str, str]:
    """Give method, supervision, training data and backbone, as no other row has them."""
    cell = record.cell
    method = cell.method + (f" ({record.seed_label})" if record.seed_label else "")
    method += f" · {cell.label}" if cell.label else ""
    if board.row_counts[_describe(record)] > 1:
        method += f" [{record.checkpoint_label}]"
    seen = "zero-shot" if record.method.zero_shot else "supervised"
    seen = record.tier if record.imported else seen
    return method, seen, cell.trained_on or "–", cell.backbone


def _describe(record: Record) -> tuple[Any, ...]:
    """Give what a row's names say of a record, but for its checkpoint."""
    cell = record.cell
    return cell.method, cell.trained_on, cell.backbone, record.seed_label, cell.label


def read_boards(root: Path) -> list[Board]:
    """Read every board of a results folder.

    Raises:
        MissingData: the folder holds no whole record.
        CorruptData: a record is damaged.
    """
    found = make_boards(read_scored(root))
    if not found:
        raise MissingData(f"no records in {root}; make one with bench run")
    return found
