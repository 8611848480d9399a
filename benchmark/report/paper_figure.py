"""The papers' bar charts: a bar a method, zero-shot and supervised in two shades, a panel a group.

Saito et al., CVPR 2023, compare zero-shot methods and supervised systems by domain on ImageNet-R,
by category on Fashion-IQ, and by metric on CIRR. Any task can be drawn in each of these ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.published import read_published, verify
from cirbench.benchmark.analysis.series import Series, collect_bars, collect_metrics
from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.record import Record, label_records
from cirbench.benchmark.report.figure import choose_board
from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.runtime.figures import COLOURS, STYLE
from cirbench.benchmark.runtime.hints import suggest
from cirbench.benchmark.runtime.paths import to_line

_DARK, _LIGHT = COLOURS[0], "#b3d5ea"
"""Zero-shot and supervised: two shades of one blue, which a grey printer keeps apart."""
_INK, _FAINT = "#1f2328", "#57606a"
_BAR, _GAP = 0.74, 0.4
"""Height of a bar and of what sets the two kinds apart, in rows."""
_INCH_ROW, _INCH_PANEL, _INCH_NAMES, _INCH_FRAME = 0.25, 1.55, 1.6, 0.95
_MARK: Mapping[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": _INK,
}
_HALO = withStroke(linewidth=2.6, foreground="white")
"""Around an interval, which is as dark as the bar that it lies on."""
_ROOM = 1.24
"""So much of the longest bar is the axis, since a number stands at its end."""


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """One of the papers' charts.

    Attributes:
        task: whose records it draws; where there are none, those of a task that follows it.
        by: what the panels are.
    """

    task: str
    by: Callable[[Board, Sequence[Record]], Series[str]]


FIGURES: Mapping[str, PaperFigure] = {
    "domain-conversion": PaperFigure(task="imagenet-r", by=collect_bars),
    "fashion-iq": PaperFigure(task="fashion-iq", by=collect_bars),
    "cirr": PaperFigure(task="cirr", by=collect_metrics),
}


def find_figure(name: str) -> PaperFigure:
    """Find a figure by its name; raises UsageError with suggestions."""
    if name not in FIGURES:
        raise UsageError(f"unknown figure {name!r}; {suggest(name, FIGURES)}")
    return FIGURES[name]


def choose_paper_board(
    found: Sequence[Board],
    figure: PaperFigure,
    *,
    task: str | None,
    split: str | None,
    protocol: str | None,
) -> Board:
    """Choose the board that a figure draws; None is the figure's own task, or one like it.

    Raises:
        MissingData: there is none.
        UsageError: there are several.
    """
    if task is None:
        there = dict.fromkeys(board.first.task_label for board in found)
        like = [figure.task] if figure.task in there else [t for t in there if _follows(t, figure)]
        if not like:
            raise MissingData(
                f"no records of {figure.task} or a task like it; choose by --task: "
                f"{', '.join(there)}"
            )
        if len(like) > 1:
            raise UsageError(f"{' and '.join(like)} have records; choose one by --task")
        task = like[0]
    return choose_board(found, task, split, protocol)


def _follows(task: str, figure: PaperFigure) -> bool:
    try:
        return bool(find_task(task).follows == figure.task)
    except UsageError:  # records can be read without their task
        return False


def draw_paper_figure(board: Board, figure: PaperFigure) -> Figure:
    """Draw a panel a group or metric, in each a bar a record, and what papers print as marks.

    Zero-shot methods are above, best first, and supervised ones below.

    Raises:
        UsageError: panels are groups, and the task has one.
    """
    named = list(zip(map(to_line, label_records(board.rows)), board.rows, strict=True))
    labels, records = zip(*sorted(named, key=lambda n: not n[1].method.zero_shot), strict=True)
    series = figure.by(board, records)
    if series.at == ("average",):
        raise UsageError(
            f"a figure by group needs several groups, and {board.title} has one; bench figure cirr "
            f"draws it by metric"
        )
    published = _find_published(board, series.at)
    places = _place_rows(records)
    width = _INCH_NAMES + _INCH_PANEL * len(series.at)
    height = _INCH_FRAME + _INCH_ROW * (places[-1] + 1)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        panels = drawn.subplots(1, len(series.at), sharey=True, sharex=True, squeeze=False)[0]
        for column, (axes, name) in enumerate(zip(panels, series.at, strict=True)):
            values = [values[column] for values in series.values]
            marks = [published.get((record.path.name, name)) for record in records]
            _draw_bars(axes, places, values, [record.method.zero_shot for record in records])
            _write_numbers(axes, places, values, marks)
            axes.set_title(to_line(name), fontsize=9, color=_INK, weight="bold")
        # the panels share both axes
        panels[0].set_yticks(places, labels)
        panels[0].set_ylim(places[-1] + 0.6, -0.6)
        panels[0].set_xlim(0, _ROOM * max(series.top, *published.values(), 1))
        title = f"{board.title}: {_name_axis(board, series)} (%), 95 % intervals"
        drawn.suptitle(to_line(title), x=0.01, ha="left", fontsize=9, color=_FAINT)
        _add_legend(drawn, records, published=bool(published))
    return drawn


def _name_axis(board: Board, series: Series[str]) -> str:
    """Name what is measured, unless the panels do."""
    return "average" if series.at[0] in board.metrics else board.headline


def _place_rows(records: Sequence[Record]) -> list[float]:
    """Place a row a record, with a gap between the two kinds."""
    first = records[0].method.zero_shot
    return [i + _GAP * (record.method.zero_shot != first) for i, record in enumerate(records)]


def _draw_bars(
    axes: Axes, places: Sequence[float], values: Sequence[Interval], zero_shot: Sequence[bool]
) -> None:
    axes.barh(
        places,
        [v.value for v in values],
        _BAR,
        xerr=[[v.value - v.low for v in values], [v.high - v.value for v in values]],
        color=[_DARK if kind else _LIGHT for kind in zero_shot],
        edgecolor=_DARK,
        linewidth=0.8,
        error_kw={"elinewidth": 1.0, "ecolor": _INK, "path_effects": [_HALO]},
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _write_numbers(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[Interval],
    marks: Sequence[float | None],
) -> None:
    """Write each value at the end of its bar, clear of the interval and of a published mark."""
    for place, value, mark in zip(places, values, marks, strict=True):
        if mark is not None:
            axes.plot(mark, place, **_MARK)
        axes.annotate(
            f"{value.value:.1f}",
            (max(value.high, mark or 0), place),
            xytext=(5 if mark else 3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_INK,
        )


def _find_published(board: Board, panels: Sequence[str]) -> dict[tuple[str, str], float]:
    """Find what papers print: a record's file name and a panel's name → percent.

    Where several print the same cell, the first is taken.
    """
    found: dict[tuple[str, str], float] = {}
    whole = "average" if len(board.groups) > 1 else board.groups[0]
    for verdict in verify(read_published(), board.rows):
        row = verdict.published
        if verdict.measured is None or verdict.record is None:
            continue
        names = {row.group} if row.metric == board.headline else set()
        if row.group == whole:
            names.add(row.metric)
        for name in names.intersection(panels):
            found.setdefault((verdict.record, name), float(row.value))
    return found


def _add_legend(figure: Figure, records: Sequence[Record], *, published: bool) -> None:
    kinds = {record.method.zero_shot for record in records}
    shades = {"zero-shot": (True, _DARK), "supervised, trained on triplets": (False, _LIGHT)}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=shade, edgecolor=_DARK, label=label)
        for label, (kind, shade) in shades.items()
        if kind in kinds
    ]
    if published:
        handles.append(Line2D([], [], label="published", **_MARK))
    figure.legend(
        handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=8
    )
