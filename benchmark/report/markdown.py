"""Leaderboards in markdown: records in, text out. Records of different protocols never mix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tabulate import tabulate

from cirbench.benchmark.analysis.boards import Board, row_names
from cirbench.benchmark.analysis.published import Published, Verdict, verify
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.record import Record, labels
from cirbench.benchmark.runtime.paths import to_line


def interval_text(interval: Interval) -> str:
    """`61.2 [58.9, 63.4]`"""
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def as_lines(records: Sequence[Record]) -> str:
    """Records of one board as a row each for a terminal, best first: averages, no intervals."""
    protocol = records[0].protocol

    def value(record: Record, metric: str) -> float:
        return record.metrics["average"][metric].value

    best_first = sorted(records, key=lambda record: -value(record, protocol.headline))
    rows = [
        [to_line(label), *(f"{value(record, m):.1f}" for m in protocol.metrics)]
        for label, record in zip(labels(best_first), best_first, strict=True)
    ]
    align = ["left", *["right"] * len(protocol.metrics)]
    headers = ["average", *protocol.metrics]
    return str(tabulate(rows, headers, disable_numparse=True, colalign=align, maxcolwidths=[40]))


def markdown(board: Board, published: Sequence[Published]) -> str:
    """A board as a section: averages, the headline per group, what they were measured with."""
    parts = [f"## {_escaped(board.title)}", ""]
    for average in board.averages:
        members = _escaped(", ".join(board.averages[average]))
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


_NAME_COLUMNS = ["method", "supervision", "trained on", "backbone"]


def _average_table(board: Board, average: str) -> str:
    cells = [[r.metrics[average][m] for m in board.metrics] for r in board.records]
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
    cells = [[r.metrics[g][board.headline] for g in board.groups] for r in board.records]
    best = _best(cells)
    rows = [
        [*map(_escaped, row_names(board, record)), *_with_best_bold(row, best)]
        for record, row in zip(board.records, cells, strict=True)
    ]
    return _scores_table(rows, [*_NAME_COLUMNS, *map(_escaped, board.groups)])


def _published_table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [
            _escaped(v.name),
            v.published.group,
            v.published.metric,
            v.published.value,
            f"{v.measured:.2f}",
            f"{v.difference:+.2f}",
            v.state,
            _escaped(v.published.source),
        ]
        for v in verdicts
    ]
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
    counts, protocol = board.first.counts, board.first.protocol
    removed = "removed from" if protocol.reference_removed else "kept in"
    links = ", ".join(
        f"[{_escaped(r.cell.method)}]({r.path.parent.name}/{r.path.name})" for r in board.records
    )
    lines = [
        f"Protocol {_code(protocol.name)} v{protocol.version}, hash "
        f"{_code(protocol.hash)}: "
        f"{counts.queries:,} queries of {counts.references:,} references "
        f"against {counts.gallery:,} images ({_escaped(protocol.gallery)}); the "
        f"reference is {removed} its ranking; preprocess {_code(protocol.preprocess)}.",
        f"In percent, with 95 % bootstrap intervals over references "
        f"({board.first.bootstrap.resamples:,} resamples); differences are paired. "
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
        for remark in (*record.annotations.remarks, *record.method.remarks):
            found.setdefault(remark, []).append(record.cell.method)
    return [(", ".join(dict.fromkeys(names)), remark) for remark, names in found.items()]


def page(all_boards: Sequence[Board], published: Sequence[Published] = ()) -> str:
    """The whole leaderboard."""
    intro = "# Leaderboard\n\nWritten by `bench leaderboard` from the records beside it.\n"
    return "\n".join([intro, *(markdown(board, published) for board in all_boards)]).rstrip() + "\n"
