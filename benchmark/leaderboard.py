"""Leaderboards in markdown: records in, text out. Records of different protocols never mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from cirbench.benchmark.bootstrap import (
    Design,
    Interval,
    group_means,
    intervals,
    resampled_means,
)
from cirbench.benchmark.published import Published, Verdict, verify
from cirbench.benchmark.records import PerQuery, Record
from cirbench.benchmark.scoring import check_means, with_averages

Draws = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Board:
    """Records that may be compared: one task, split, protocol, gallery and set of queries.

    Attributes:
        records: best first by the headline metric's average.
    """

    records: tuple[Record, ...]

    @property
    def first(self) -> Mapping[str, Any]:
        """The fields that all records of a board share are read off the first."""
        return self.records[0].data

    @property
    def title(self) -> str:
        cell, protocol = self.first["cell"], self.first["protocol"]
        return (
            f"{cell['task']} · {cell['split']} · protocol {protocol['name']} v{protocol['version']}"
        )

    @property
    def stem(self) -> str:
        """For the names of its plots."""
        cell, protocol = self.first["cell"], self.first["protocol"]
        gallery = self.first["fingerprints"]["gallery"][:4]
        return f"{cell['split']}--{protocol['name']}-{protocol['hash']}-{gallery}"

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
    def per_query(self) -> tuple[PerQuery, ...]:
        """By record.

        Raises:
            CorruptData: a file is missing or altered, or its record says other than it does.
        """
        averages = {average: _members(self, average) for average in self.averages}
        found = tuple(record.per_query() for record in self.records)
        for record, arrays in zip(self.records, found, strict=True):
            check_means(record, arrays, averages)
        return found

    def value(self, record: Record, group: str, metric: str) -> Interval:
        return Interval(**record.data["metrics"][group][metric])

    def differences(self, average: str) -> list[Interval]:
        """Each record minus the best one, in the headline metric, with a paired 95 % interval."""
        column = self.metrics.index(self.headline)
        sampled = [_average_draws(arrays, self, average, column) for arrays in self.per_query]
        best, best_draws = sampled[0]
        return [
            intervals(np.array([v - best]), (d - best_draws)[:, None], [len(arrays.query)])[0]
            for (v, d), arrays in zip(sampled, self.per_query, strict=True)
        ]


def _average_draws(
    arrays: PerQuery, board: Board, average: str, column: int
) -> tuple[float, Draws]:
    """The headline's average and its draws; the same references are drawn for all records."""
    members = {average: _members(board, average)}
    design = Design.of(arrays.reference, arrays.group, board.groups)
    values = arrays.values[:, [column]]
    mean = with_averages(group_means(values, design), board.groups, members)[0, 0]
    draws = with_averages(resampled_means(values, design), board.groups, members)[:, 0, 0]
    return float(mean), draws


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
    return [Board(records=_ranked(together[key])) for key in sorted(together)]


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


def markdown(board: Board, published: Sequence[Published]) -> str:
    """A board as a section: averages, the headline per group, what they were measured with."""
    parts = [f"## {board.title}", ""]
    for average in board.averages:
        members = ", ".join(_members(board, average))
        parts += [f"### {average.capitalize()} ({members})", "", _average_table(board, average), ""]
    if len(board.groups) > 1:
        parts += [f"### {board.headline} by group", "", _group_table(board), ""]
    if verdicts := [v for v in verify(published, board.records) if v.measured is not None]:
        parts += ["### Against published numbers", "", _published_table(verdicts), ""]
    parts += [_pictures(board), "", _footnote(board), ""]
    return "\n".join(parts)


def _row_names(record: Record) -> list[str]:
    cell = record.data["cell"]
    method = cell["method"] + (f" (seed {cell['seed']})" if cell["seed"] else "")
    seen = "zero-shot" if record.data["method"]["zero_shot"] else "supervised"
    return [_escaped(method), seen, _escaped(cell["trained_on"] or "–"), _escaped(cell["backbone"])]


_NAME_COLUMNS = ["method", "supervision", "trained on", "backbone"]


def _average_table(board: Board, average: str) -> str:
    cells = [[(board.value(r, average, m)) for m in board.metrics] for r in board.records]
    rows = [
        [*_row_names(record), *_with_best_bold(row, cells), _difference_text(difference)]
        for record, row, difference in zip(
            board.records, cells, board.differences(average), strict=True
        )
    ]
    headers = [*_NAME_COLUMNS, *board.metrics, f"{board.headline} minus the first row's"]
    return _scores_table(rows, headers)


def _group_table(board: Board) -> str:
    cells = [[board.value(r, g, board.headline) for g in board.groups] for r in board.records]
    rows = [
        [*_row_names(record), *_with_best_bold(row, cells)]
        for record, row in zip(board.records, cells, strict=True)
    ]
    return _scores_table(rows, [*_NAME_COLUMNS, *board.groups])


def _published_table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [
            _escaped(" ".join(filter(None, (v.published.method, v.published.variant)))),
            v.published.group, v.published.metric, v.published.value, f"{v.measured:.2f}",
            f"{v.difference:+.2f}", v.state, _escaped(v.published.source),
        ]
        for v in verdicts
    ]  # fmt: skip
    headers = ["method", "group", "metric", "published", "ours", "difference", "verdict", "source"]
    alignment = ["left", "left", "left", "right", "right", "right", "left", "left"]
    return _table(rows, headers, alignment)


def _with_best_bold(row: Sequence[Interval], column_of: Sequence[Sequence[Interval]]) -> list[str]:
    best = [max(round(r[i].value, 1) for r in column_of) for i in range(len(row))]
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
    return name.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


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
        f"Protocol `{protocol['name']}` v{protocol['version']}, hash `{protocol['hash']}`: "
        f"{data['counts']['queries']:,} queries of {data['counts']['references']:,} references "
        f"against {data['counts']['gallery']:,} images ({protocol['gallery']}); the reference is "
        f"{removed} its ranking; preprocess `{protocol['preprocess']}`.",
        f"In percent, with 95 % bootstrap intervals over references "
        f"({data['bootstrap']['resamples']:,} resamples); differences are paired. "
        f"Best values are bold. "
        f"Supervised methods were trained on triplets, zero-shot ones were not.",
        f"Records: {links}.",
    ]
    return "\n\n".join(lines)


def page(all_boards: Sequence[Board], published: Sequence[Published] = ()) -> str:
    """The whole leaderboard."""
    intro = "# Leaderboard\n\nWritten by `bench leaderboard` from the records beside it.\n"
    return "\n".join([intro, *(markdown(board, published) for board in all_boards)]).rstrip() + "\n"
