"""The leaderboard's pictures: bars per group as in the papers' figures, and recall over k."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cirbench.benchmark.analysis.board_statistics import collect_curves
from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.series import collect_bars
from cirbench.benchmark.records.record import label_records
from cirbench.benchmark.runtime.figures import COLOURS, STYLE
from cirbench.benchmark.runtime.paths import to_line

if TYPE_CHECKING:
    from cirbench.benchmark.records.record import Record

HATCHES = ("", "..", "oo", "**")
"""Of zero-shot methods: each colour plain first, then with dots of a kind."""
SUPERVISED_HATCHES = ("//", "\\\\", "xx", "||")
"""Lines, so that those that saw triplets are told apart in any colour."""
DASHES = ("-", "--", ":", "-.")
"""Of curves: each colour whole first."""
MOST = len(COLOURS) * len(HATCHES)
"""A figure shows so many records at most: all that look different."""


def draw_bars(board: Board) -> Figure:
    """Draw a metric per group and on average, one bar a record."""
    drawn = _choose_rows(board)
    series = collect_bars(board, list(drawn.values()))
    figure, axes = _make_figure(max(6.0, 1.2 + 0.28 * len(series.at) * len(drawn)))
    width = 0.84 / len(drawn)
    places = np.arange(len(series.at))
    for i, (label, cells) in enumerate(zip(drawn, series.values, strict=True)):
        record = drawn[label]
        values = np.array([cell.value for cell in cells])
        error = np.array([[c.value - c.low for c in cells], [c.high - c.value for c in cells]])
        axes.bar(
            places + (i - (len(drawn) - 1) / 2) * width,
            values,
            width * 0.92,
            yerr=error,
            label=label,
            color=_colour(i),
            hatch=_choose_hatch(i, zero_shot=record.method.zero_shot),
            error_kw={"elinewidth": 0.8},
        )
    axes.set_xticks(places, [to_line(row) for row in series.at])
    axes.set_ylabel(f"{board.group_metric} (%)")
    lined = Patch(facecolor="white", edgecolor="black", linewidth=0.4, hatch=SUPERVISED_HATCHES[0])
    kinds = {record.method.zero_shot for record in drawn.values()}
    return _finish(figure, axes, board, {} if kinds == {True} else {"supervised (lines)": lined})


def draw_curves(board: Board) -> Figure:
    """Draw recall at every k that was kept, averaged over groups, with its band."""
    figure, axes = _make_figure(6.0)
    drawn = _choose_rows(board)
    series = collect_curves(board, list(drawn.values()))
    k = series.at
    for i, (label, curve) in enumerate(zip(drawn, series.values, strict=True)):
        values = [point.value for point in curve]
        dashes = DASHES[i // len(COLOURS) % len(DASHES)]
        axes.plot(k, values, dashes, color=_colour(i), label=label, linewidth=1.4)
        low, high = [point.low for point in curve], [point.high for point in curve]
        axes.fill_between(k, low, high, color=_colour(i), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 5, 10, 50, 100, 200) if tick <= k[-1]]
    axes.set_xticks(ticks, [str(k) for k in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("k")
    axes.set_ylabel("recall@k (%), average over groups")
    return _finish(figure, axes, board)


def _make_figure(width: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(min(width, 14.0), 3.6), layout="constrained")
    return figure, figure.add_subplot()


def _finish(
    figure: Figure, axes: Axes, board: Board, keys: Mapping[str, Patch] = MappingProxyType({})
) -> Figure:
    """Set title and legend; `keys` come last in this."""
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    shown, of = len(_choose_rows(board)), len(board.rows)
    axes.set_title(to_line(board.title), loc="left", fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        [*handles, *keys.values()],
        [*labels, *keys],
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        title=f"{shown} of {of} records" if shown < of else None,
    )
    return figure


def _choose_rows(board: Board) -> dict[str, Record]:
    """Choose a board's rows, best first, as many as look different."""
    return dict(list(zip(map(to_line, label_records(board.rows)), board.rows, strict=True))[:MOST])


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _choose_hatch(index: int, *, zero_shot: bool) -> str:
    kinds = HATCHES if zero_shot else SUPERVISED_HATCHES
    return kinds[index // len(COLOURS) % len(kinds)]


def draw(board: Board) -> dict[str, Figure]:
    """Draw a board's figures, by kind."""
    with mpl.rc_context(STYLE):
        return {"bars": draw_bars(board), "curves": draw_curves(board)}
