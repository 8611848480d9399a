"""Leaderboards in markdown: records in, text out. Records of different protocols never mix."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from tabulate import tabulate

from cirbench.benchmark.analysis.published import Published, Verdict, verify
from cirbench.benchmark.records.record import PerQuery, Record, Scores, labels, slug
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.paths import to_line
from cirbench.benchmark.scoring.bootstrap import (
    Array,
    Design,
    Interval,
    group_means,
    intervals,
    resampled_means,
)
from cirbench.benchmark.scoring.summary import with_averages

_KEPT = 8
"""How many records' per-query data are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """Records that may be compared: one task, split, protocol, gallery and set of queries.

    Attributes:
        records: best first by the headline metric's average.
        weights: digits of the backbone's weights, where one name stands for several.
    """

    records: tuple[Record, ...]
    weights: str = ""

    @property
    def first(self) -> Mapping[str, Any]:
        """The fields that all records of a board share are read off the first."""
        return self.records[0].data

    @property
    def title(self) -> str:
        cell, protocol = self.first["cell"], self.first["protocol"]
        title = (
            f"{cell['task']} · {cell['split']} · protocol {protocol['name']} v{protocol['version']}"
        )
        return title + (f" · weights {self.weights}" if self.weights else "")

    @property
    def stem(self) -> str:
        """For the names of its plots."""
        cell, protocol = self.first["cell"], self.first["protocol"]
        gallery = self.first["fingerprints"]["gallery"][:4]
        names = (cell["split"], f"{protocol['name']}-{protocol['hash']}-{gallery}", self.weights)
        return "--".join(slug(name) for name in names if name)

    @property
    def groups(self) -> list[str]:
        return list(self.first["groups"])

    @property
    def averages(self) -> list[str]:
        return [name for name in self.first["metrics"] if name not in self.groups]

    @property
    def metrics(self) -> list[str]:
        return list(self.first["protocol"]["metrics"])

    @property
    def headline(self) -> str:
        """The metric that ranks the rows."""
        return str(self.first["protocol"]["headline"])

    @property
    def digest(self) -> str:
        """sha256 of everything that is shown."""
        shown = [[r.data[part] for part in ("cell", "metrics", "per_query")] for r in self.records]
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()

    @cached_property
    def scores(self) -> tuple[Scores, ...]:
        """By record.

        Raises:
            CorruptData: a file is missing or altered, or two records are of other queries.
        """
        found = tuple(record.scores for record in self.records)
        for record, scores in zip(self.records, found, strict=True):
            if not np.array_equal(scores.query, found[0].query):
                raise CorruptData(
                    f"{record.path} and {self.records[0].path} share a protocol and annotations, "
                    f"but not their queries; run both cells again"
                )
        return found

    @cached_property
    def design(self) -> Design:
        """Which reference and group each query is of."""
        return Design.of(self.scores[0].reference, self.scores[0].group, self.groups)

    @cached_property
    def per_query(self) -> Answers:
        """By record, each read when it is asked for.

        Raises:
            CorruptData: a file is missing or altered.
        """
        return Answers(self.records)

    def value(self, record: Record, group: str, metric: str) -> Interval:
        return Interval(**record.data["metrics"][group][metric])

    def differences(self, average: str) -> list[Interval]:
        """Each record minus the best one, in the headline metric, with a paired 95 % interval."""
        means, draws = (part[..., self.averages.index(average), :] for part in self._headline)
        sizes = [len(self.scores[0].query)] * len(self.records)
        return intervals(means - means[0], draws - draws[:, :1], sizes)

    @cached_property
    def _headline(self) -> tuple[Array, Array]:
        """`sample` of the headline metric: (A + G, records) and (resamples, A + G, records)."""
        column = self.metrics.index(self.headline)
        values = np.stack([scores.values[:, column] for scores in self.scores], axis=1)
        return self.sample(values, self.averages)

    @cached_property
    def said(self) -> Counter[tuple[Any, ...]]:
        """How many records have the same words in a row."""
        return Counter(map(_said, self.records))

    def sample(self, values: Array, averages: Sequence[str]) -> tuple[Array, Array]:
        """(Q, M) → (A + G, M) means and (resamples, A + G, M) draws, averages first.

        The same references are drawn for all records, so that differences are paired.
        """
        members = {average: _members(self, average) for average in averages}
        means = with_averages(group_means(values, self.design), self.groups, members)
        return means, with_averages(resampled_means(values, self.design), self.groups, members)


class Answers:
    """Per-query data of records, the last few of which are kept: a large task's is gigabytes."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._read = lru_cache(_KEPT)(lambda index: self._records[index].per_query())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> PerQuery:
        return self._read(index)

    def __iter__(self) -> Iterator[PerQuery]:
        return map(self.__getitem__, range(len(self)))


def _members(board: Board, average: str) -> Sequence[str]:
    own: Mapping[str, Sequence[str]] = board.first["protocol"]["averages"]
    return own.get(average, board.groups)


def boards(records: Sequence[Record]) -> list[Board]:
    """Splits records into boards, and ranks each board's rows."""
    together: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        cell, prints = record.data["cell"], record.data["fingerprints"]
        protocol = record.data["protocol"]
        shared = (protocol["name"], protocol["hash"], prints["gallery"], prints["annotations"])
        key = (cell["task"], cell["split"], *shared)
        together.setdefault(key, []).append(record)
    return [board for key in sorted(together) for board in _split(together[key])]


def _split(records: Sequence[Record]) -> list[Board]:
    """One board; where a backbone's name stands for several weights, one for each of these."""
    names = {(r.data["cell"]["backbone"], _weights(r)) for r in records}
    if len(names) == len({name for name, _ in names}):
        return [Board(records=_ranked(records))]
    return [
        Board(records=_ranked([r for r in records if _weights(r) == own]), weights=own[:8])
        for own in sorted({weights for _, weights in names})
    ]


def _weights(record: Record) -> str:
    return record.data["fingerprints"].get("weights") or "unknown"


def _ranked(records: Sequence[Record]) -> tuple[Record, ...]:
    headline = str(records[0].data["protocol"]["headline"])
    return tuple(
        sorted(
            records, key=lambda r: (-r.data["metrics"]["average"][headline]["value"], str(r.path))
        )
    )


def interval_text(interval: Interval) -> str:
    """`61.2 [58.9, 63.4]`"""
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def as_lines(records: Sequence[Record]) -> str:
    """Records of one board as a row each for a terminal, best first: averages, no intervals."""
    protocol = records[0].data["protocol"]

    def value(record: Record, metric: str) -> float:
        return float(record.data["metrics"]["average"][metric]["value"])

    best_first = sorted(records, key=lambda record: -value(record, protocol["headline"]))
    rows = [
        [to_line(label), *(f"{value(record, m):.1f}" for m in protocol["metrics"])]
        for label, record in zip(labels(best_first), best_first, strict=True)
    ]
    align = ["left", *["right"] * len(protocol["metrics"])]
    headers = ["average", *protocol["metrics"]]
    return str(tabulate(rows, headers, disable_numparse=True, colalign=align, maxcolwidths=[40]))


def markdown(board: Board, published: Sequence[Published]) -> str:
    """A board as a section: averages, the headline per group, what they were measured with."""
    parts = [f"## {_escaped(board.title)}", ""]
    for average in board.averages:
        members = _escaped(", ".join(_members(board, average)))
        parts += [
            f"### {_escaped(average.capitalize())} ({members})",
            "",
            _average_table(board, average),
            "",
        ]
    if len(board.groups) > 1:
        parts += [f"### {board.headline} by group", "", _group_table(board), ""]
    if verdicts := [v for v in verify(published, board.records) if v.measured is not None]:
        parts += ["### Against published numbers", "", _published_table(verdicts), ""]
    parts += [_pictures(board), "", _footnote(board), ""]
    return "\n".join(parts)


def row_names(board: Board, record: Record) -> tuple[str, str, str, str]:
    """Method, supervision, what it was trained on, backbone, as no other row has them."""
    cell = record.data["cell"]
    method = cell["method"] + (f" (seed {cell['seed']})" if cell["seed"] else "")
    method += f" · {cell['label']}" if cell.get("label") else ""
    if board.said[_said(record)] > 1:
        method += f" [{record.checkpoint_label}]"
    seen = "zero-shot" if record.data["method"]["zero_shot"] else "supervised"
    return method, seen, cell["trained_on"] or "–", cell["backbone"]


def _said(record: Record) -> tuple[Any, ...]:
    """What a row's names say of a record, but for its checkpoint."""
    names = ("method", "trained_on", "backbone", "seed", "label")
    return tuple(record.data["cell"].get(name) for name in names)


_NAME_COLUMNS = ["method", "supervision", "trained on", "backbone"]


def _average_table(board: Board, average: str) -> str:
    cells = [[board.value(r, average, m) for m in board.metrics] for r in board.records]
    best = _best(cells)
    rows = [
        [
            *map(_escaped, row_names(board, record)),
            *_with_best_bold(row, best),
            _difference_text(difference),
        ]
        for record, row, difference in zip(
            board.records, cells, board.differences(average), strict=True
        )
    ]
    headers = [*_NAME_COLUMNS, *board.metrics, f"{board.headline} minus the first row's"]
    return _scores_table(rows, headers)


def _group_table(board: Board) -> str:
    cells = [[board.value(r, g, board.headline) for g in board.groups] for r in board.records]
    best = _best(cells)
    rows = [
        [*map(_escaped, row_names(board, record)), *_with_best_bold(row, best)]
        for record, row in zip(board.records, cells, strict=True)
    ]
    return _scores_table(rows, [*_NAME_COLUMNS, *map(_escaped, board.groups)])


def _published_table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [
            _escaped(v.name), v.published.group, v.published.metric, v.published.value,
            f"{v.measured:.2f}", f"{v.difference:+.2f}", v.state, _escaped(v.published.source),
        ]
        for v in verdicts
    ]  # fmt: skip
    headers = ["method", "group", "metric", "published", "ours", "difference", "verdict", "source"]
    alignment = ["left", "left", "left", "right", "right", "right", "left", "left"]
    return _table(rows, headers, alignment)


def _best(rows: Sequence[Sequence[Interval]]) -> list[float]:
    """The best of each column, as it is printed."""
    return [max(round(cell.value, 1) for cell in column) for column in zip(*rows, strict=True)]


def _with_best_bold(row: Sequence[Interval], best: Sequence[float]) -> list[str]:
    return [
        f"**{interval.value:.1f}** [{interval.low:.1f}, {interval.high:.1f}]"
        if round(interval.value, 1) == top
        else interval_text(interval)
        for interval, top in zip(row, best, strict=True)
    ]


def _difference_text(difference: Interval) -> str:
    if difference.value == difference.low == difference.high == 0:
        return "–"
    return f"{difference.value:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _scores_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Names to the left, numbers to the right."""
    names = len(_NAME_COLUMNS)
    return _table(rows, headers, ["left"] * names + ["right"] * (len(headers) - names))


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], alignment: Sequence[str]) -> str:
    return str(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment))


def _escaped(name: str) -> str:
    """A stranger's name as itself: no markup, link, formula or control character of it counts."""
    return re.sub(r"([\\`*\[\]|!])|(<)", lambda m: "&lt;" if m[2] else f"\\{m[1]}", to_line(name))


def plot_names(board: Board) -> dict[str, str]:
    """Kind of plot → path in the results folder, without its ending."""
    task = str(board.records[0].path.parent.name)
    return {kind: f"{task}/{board.stem}--{kind}" for kind in ("bars", "curves")}


def _pictures(board: Board) -> str:
    names = plot_names(board)
    return (
        f"![{board.headline} by group, with 95 % intervals]({names['bars']}.svg)\n"
        f"![Recall at k, with 95 % bands]({names['curves']}.svg)"
    )


def _footnote(board: Board) -> str:
    data, protocol = board.first, board.first["protocol"]
    removed = "removed from" if protocol["reference_removed"] else "kept in"
    links = ", ".join(
        f"[{_escaped(r.data['cell']['method'])}]({r.path.parent.name}/{r.path.name})"
        for r in board.records
    )
    lines = [
        f"Protocol {_code(protocol['name'])} v{protocol['version']}, hash "
        f"{_code(protocol['hash'])}: "
        f"{data['counts']['queries']:,} queries of {data['counts']['references']:,} references "
        f"against {data['counts']['gallery']:,} images ({_escaped(protocol['gallery'])}); the "
        f"reference is {removed} its ranking; preprocess {_code(protocol['preprocess'])}.",
        f"In percent, with 95 % bootstrap intervals over references "
        f"({data['bootstrap']['resamples']:,} resamples); differences are paired. "
        f"Best values are bold. "
        f"Supervised methods were trained on triplets, zero-shot ones were not.",
        f"Records: {links}.",
        *(f"{_escaped(name)}: {_escaped(remark)}" for name, remark in _remarks(board)),
    ]
    return "\n\n".join(lines)


def _code(name: str) -> str:
    """A name as code, unless it holds what would end that."""
    return f"`{name}`" if re.fullmatch(r"[\w.@+-]+", name) else _escaped(name)


def _remarks(board: Board) -> list[tuple[str, str]]:
    """What a reader should know of the records, each remark once: whose, and what."""
    found: dict[str, list[str]] = {}
    for record in board.records:
        for remark in (
            *record.data["annotations"].get("remarks", ()),
            *record.data["method"].get("remarks", ()),
        ):
            found.setdefault(remark, []).append(record.data["cell"]["method"])
    return [(", ".join(dict.fromkeys(names)), remark) for remark, names in found.items()]


def page(all_boards: Sequence[Board], published: Sequence[Published] = ()) -> str:
    """The whole leaderboard."""
    intro = "# Leaderboard\n\nWritten by `bench leaderboard` from the records beside it.\n"
    return "\n".join([intro, *(markdown(board, published) for board in all_boards)]).rstrip() + "\n"
