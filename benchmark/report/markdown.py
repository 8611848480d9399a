"""Leaderboards in markdown: records in, text out. Records of different protocols never mix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tabulate import tabulate

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.composition import audit_board
from cirbench.benchmark.analysis.published import Published, verify
from cirbench.benchmark.analysis.seeds import find_spread
from cirbench.benchmark.records.record import Record, label_records
from cirbench.benchmark.report.audit import describe_audit
from cirbench.benchmark.report.export import as_markdown, escape_markdown
from cirbench.benchmark.report.tables import SEEDS, make_leaderboard_tables
from cirbench.benchmark.runtime.paths import to_line


def format_lines(records: Sequence[Record]) -> str:
    """Format records of one board for a terminal, best first: averages, no intervals.

    Behind ± stands the standard deviation over seeds, where a record is a mean over these.
    """
    protocol = records[0].protocol

    def value(record: Record, metric: str) -> float:
        return record.metrics["average"][metric].value

    best_first = sorted(records, key=lambda record: -value(record, protocol.headline))

    def cell(record: Record, metric: str) -> str:
        sd = find_spread(record, "average", metric)
        return f"{value(record, metric):.1f}" + ("" if sd is None else f" ± {sd:.1f}")

    rows = [
        [to_line(label), *(cell(record, metric) for metric in protocol.metrics)]
        for label, record in zip(label_records(best_first), best_first, strict=True)
    ]
    align = ["left", *["right"] * len(protocol.metrics)]
    headers = ["average", *protocol.metrics]
    return str(tabulate(rows, headers, disable_numparse=True, colalign=align, maxcolwidths=[40]))


def render_board(board: Board, published: Sequence[Published]) -> str:
    """Render a board as a section: its tables, its plots and what they were measured with."""
    parts = [f"## {escape_markdown(board.title)}", ""]
    for table in make_leaderboard_tables(board, verify(published, board.records)):
        title = escape_markdown(table.title[0].upper() + table.title[1:])
        parts += [f"### {title}", "", as_markdown(table), ""]
    parts += [_link_pictures(board), "", _render_footnote(board), ""]
    return "\n".join(parts)


def name_plots(board: Board) -> dict[str, str]:
    """Give each kind of plot its path in the results folder, without its ending."""
    task = str(board.records[0].path.parent.name)
    return {kind: f"{task}/{board.stem}--{kind}" for kind in ("bars", "curves")}


def _link_pictures(board: Board) -> str:
    names = name_plots(board)
    return (
        f"![{board.group_metric} by group, with 95 % intervals]({names['bars']}.svg)\n"
        f"![Recall at k, with 95 % bands]({names['curves']}.svg)"
    )


def _render_footnote(board: Board) -> str:
    counts, protocol, audit = board.first.counts, board.first.protocol, audit_board(board)
    removed = "removed from" if protocol.reference_removed else "kept in"
    prepared = _code(protocol.preprocess)
    if protocol.reference_preprocess:
        prepared += f", of references {_code(protocol.reference_preprocess)}"
    orders = "; both orders of the captions are asked" if protocol.times_asked > 1 else ""
    links = ", ".join(
        f"[{escape_markdown(r.cell.method)}]({r.path.parent.name}/{r.path.name})"
        for r in board.records
    )
    lines = [
        f"Protocol {_code(protocol.name)} v{protocol.version}, hash "
        f"{_code(protocol.hash)}: "
        f"{counts.queries:,} queries of {counts.references:,} references "
        f"against {counts.gallery:,} images ({escape_markdown(protocol.gallery)}); the "
        f"reference is {removed} its ranking; preprocess {prepared}{orders}.",
        f"In percent, with 95 % bootstrap intervals over references "
        f"({board.first.bootstrap.resamples:,} resamples); differences are paired. "
        f"Best values are bold. "
        f"Supervised methods were trained on triplets, zero-shot ones were not.",
        *([SEEDS] if len(board.rows) < len(board.records) else []),
        *([escape_markdown(describe_audit(audit))] if audit else []),
        f"Records: {links}.",
        *(
            f"{escape_markdown(name)}: {escape_markdown(remark)}"
            for name, remark in _list_remarks(board)
        ),
    ]
    return "\n\n".join(lines)


def _code(name: str) -> str:
    """Write a name as code, unless it holds what would end that."""
    return f"`{name}`" if re.fullmatch(r"[\w.@+-]+", name) else escape_markdown(name)


def _list_remarks(board: Board) -> list[tuple[str, str]]:
    """List what a reader should know of the records, each remark once: whose, and what."""
    found: dict[str, list[str]] = {}
    for record in board.records:
        for remark in (*record.annotations.remarks, *record.method.remarks):
            found.setdefault(remark, []).append(record.cell.method)
    return [(", ".join(dict.fromkeys(names)), remark) for remark, names in found.items()]


def render_leaderboard(all_boards: Sequence[Board], published: Sequence[Published] = ()) -> str:
    """Render the whole leaderboard."""
    intro = "# Leaderboard\n\nWritten by `bench leaderboard` from the records beside it.\n"
    return (
        "\n".join([intro, *(render_board(board, published) for board in all_boards)]).rstrip()
        + "\n"
    )
