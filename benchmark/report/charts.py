"""Charts as geometry in SVG units; a template writes them. Series are told apart by letter too."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from cirbench.benchmark.analysis.board_statistics import Statistics
from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.published import DIFFERS, Verdict
from cirbench.benchmark.analysis.seeds import list_seeds
from cirbench.benchmark.analysis.series import collect_bars
from cirbench.benchmark.api.values import Interval

SERIES = 8
"""At most so many records in one chart, the best ones; as many colours as can be told apart."""
LETTERS = string.ascii_uppercase[:SERIES]
WIDTH, HEIGHT = 660.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 22.0, 12.0, 44.0
_LETTER_HEIGHT = 11.0
_LINED = "Bars with lines are of supervised methods, which were trained on triplets."

Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label on an axis, and where it stands."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar with its interval, in SVG units; y grows downwards."""

    series: int
    x: float
    y: float
    width: float
    height: float
    middle: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line and its band, as `points` attributes; the letter stands at its end."""

    series: int
    points: str
    band: str
    end_y: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A mark; `cross` draws it as × rather than ●."""

    x: float
    y: float
    series: int = 0
    low: float | None = None
    high: float | None = None
    letter: str = ""
    cross: bool = False
    title: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What the template draws.

    Attributes:
        legend: one name a series, in order; the template adds the letters.
        lined: series whose bars are drawn with lines.
        diagonal: (x1, y1, x2, y2) of the line where both axes agree, if any.
        note: what the chart leaves out, or how to read it.
    """

    kind: str
    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    legend: tuple[str, ...] = ()
    lined: tuple[int, ...] = ()
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    diagonal: tuple[float, float, float, float] | None = None
    note: str = ""


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Map low..high to start..end."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Map low..high to start..end by the logarithm."""
    inner = linear(math.log(low), math.log(high), start, end)
    return lambda value: inner(math.log(value))


def round_ticks(top: float) -> list[float]:
    """Step from 0 by 1, 2 or 5 times a power of ten until `top` is reached; at most seven."""
    top = top or 1.0
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(power * unit for unit in (1, 2, 5, 10) if top / (power * unit) <= 6)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def _y_axis(top: float) -> tuple[Scale, tuple[Tick, ...]]:
    values = round_ticks(top)
    scale = linear(0, values[-1], HEIGHT - BOTTOM, TOP)
    return scale, tuple(Tick(at=scale(v), text=f"{v:g}") for v in values)


def make_bars(board: Board, names: Sequence[str]) -> Chart:
    """Chart a metric per group and on average, one bar a record."""
    count = min(len(names), SERIES)
    lined = [i for i, r in enumerate(board.rows[:count]) if not r.method.zero_shot]
    series = collect_bars(board, board.rows[:count])
    y, y_ticks = _y_axis(series.top)
    slot = (WIDTH - LEFT - RIGHT) / len(series.at)
    width = min(0.86 * slot / count, 48.0)
    middles = [LEFT + slot * (i + 0.5) for i in range(len(series.at))]
    drawn = [
        _make_bar(cells[p], middle + (i - count / 2) * width, width, y, i, f"{names[i]}, {row}")
        for p, (row, middle) in enumerate(zip(series.at, middles, strict=True))
        for i, cells in enumerate(series.values)
    ]
    return Chart(
        kind="bars",
        title=f"{board.group_metric} by group, with 95 % intervals",
        x_label="",
        y_label=f"{board.group_metric} (%)",
        x_ticks=tuple(Tick(at=m, text=row) for m, row in zip(middles, series.at, strict=True)),
        y_ticks=y_ticks,
        legend=tuple(names[:count]),
        lined=tuple(lined),
        bars=tuple(drawn),
        note=" ".join(filter(None, (_note_left_out(names), _LINED if lined else ""))),
    )


def _make_bar(value: Interval, x: float, width: float, y: Scale, series: int, name: str) -> Bar:
    return Bar(
        series=series,
        x=x + 0.04 * width,
        y=y(value.value),
        width=0.92 * width,
        height=y(0) - y(value.value),
        middle=x + width / 2,
        low=y(value.low),
        high=y(value.high),
        title=f"{name}: {_format(value)}",
    )


def _format(value: Interval) -> str:
    return f"{value.value:.1f} [{value.low:.1f}, {value.high:.1f}]"


def _note_left_out(names: Sequence[str]) -> str:
    return f"The best {SERIES} of {len(names)} records." if len(names) > SERIES else ""


def make_curves(shown: Statistics, names: Sequence[str]) -> Chart:
    """Chart recall over k, averaged over groups, with its band."""
    count = min(len(names), SERIES)
    ks, curves = shown.curves.at, shown.curves.values[:count]
    y, y_ticks = _y_axis(max(p.high for curve in curves for p in curve))
    x = logarithmic(1, max(2, ks[-1]), LEFT, WIDTH - RIGHT)
    at = [x(k) for k in ks]
    ends = _move_apart([y(curve[-1].value) for curve in curves])
    lines = [
        Line(
            series=i,
            end_y=ends[i],
            title=f"{names[i]}: {_format(curve[-1])} at k = {ks[-1]}",
            points=_points(at, [y(p.value) for p in curve]),
            band=_points(
                [*at, *at[::-1]], [*(y(p.low) for p in curve), *(y(p.high) for p in curve[::-1])]
            ),
        )
        for i, curve in enumerate(curves)
    ]
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= ks[-1]]
    return Chart(
        kind="curves",
        title="Recall at k, average over groups, with 95 % bands",
        x_label="k",
        y_label="recall@k (%)",
        x_ticks=tuple(Tick(at=x(k), text=str(k)) for k in ticks),
        y_ticks=y_ticks,
        legend=tuple(names[:count]),
        lines=tuple(lines),
        note=_note_left_out(names),
    )


def _points(xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))


def _move_apart(heights: Sequence[float]) -> list[float]:
    """Move heights down where letters would lie on one another, within the frame."""
    placed: dict[int, float] = {}
    floor = TOP
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        placed[i] = max(heights[i], floor)
        floor = placed[i] + _LETTER_HEIGHT
    over = max(0.0, floor - _LETTER_HEIGHT - (HEIGHT - BOTTOM))
    return [placed[i] - over for i in range(len(heights))]


def count_seconds(board: Board) -> list[float]:
    """Add up what each row took to compose and rank its queries, on average over its seeds.

    Embedding the pictures is left out: it is shared by all methods of a run, or read from a store.
    """
    stages = [[one.run.seconds for one in list_seeds(row)] for row in board.rows]
    return [fmean(s.get("compose", 0) + s.get("rank", 0) for s in own) for own in stages]


def make_cost(board: Board, shown: Statistics, names: Sequence[str]) -> Chart | None:
    """Chart seconds against the headline metric; None where fewer than two records have times."""
    timed = [(i, s) for i, s in enumerate(count_seconds(board)) if s > 0]
    if len(timed) < 2:
        return None
    x, x_ticks = _log_axis([s for _, s in timed])
    values = [score.value for score in shown.scores["average", board.headline]]
    y, y_ticks = _y_axis(max(values[i].high for i, _ in timed))
    dots = [
        Dot(
            x=x(s),
            y=y(values[i].value),
            low=y(values[i].low),
            high=y(values[i].high),
            series=min(i, SERIES),
            letter=LETTERS[i] if i < SERIES else "",
            title=f"{names[i]}: {s:.3g} s, {_format(values[i])}",
        )
        for i, s in timed
    ]
    return Chart(
        kind="cost",
        title=f"Cost against {board.headline}",
        x_label="seconds to compose and rank all queries",
        y_label=f"{board.headline} (%), average",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        legend=tuple(names[:SERIES]),
        dots=tuple(dots),
        note="On each record's own hardware; texts that methods share are counted for the first.",
    )


def _log_axis(values: Sequence[float]) -> tuple[Scale, tuple[Tick, ...]]:
    """Scale whole decades around the values; ticks at 1, 2 and 5 where they are few, else at 1."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)
    scale = logarithmic(10.0**first, 10.0**last, LEFT, WIDTH - RIGHT)
    units = (1, 2, 5) if last - first <= 2 else (1,)
    at = [unit * 10.0**p for p in range(first, last + 1) for unit in units]
    return scale, tuple(Tick(at=scale(v), text=f"{v:g}") for v in at if v <= 10.0**last)


def make_scatter(verdicts: Sequence[Verdict]) -> Chart | None:
    """Chart our numbers over the published ones; None where there is none."""
    pairs = [(v, float(v.published.value), v.measured) for v in verdicts if v.measured is not None]
    if not pairs:
        return None
    y, y_ticks = _y_axis(max(max(printed, ours) for _, printed, ours in pairs))
    x = linear(0, float(y_ticks[-1].text), LEFT, WIDTH - RIGHT)
    dots = [
        Dot(
            x=x(printed),
            y=y(ours),
            cross=v.state == DIFFERS,
            title=f"{v.published.method}, {v.published.group}, {v.published.metric}: "
            f"published {v.published.value}, ours {ours:.2f}, {v.state}",
        )
        for v, printed, ours in pairs
    ]
    return Chart(
        kind="published",
        title="Measured against published",
        x_label="published (%)",
        y_label="measured here (%)",
        x_ticks=tuple(Tick(at=x(float(t.text)), text=t.text) for t in y_ticks),
        y_ticks=y_ticks,
        dots=tuple(dots),
        diagonal=(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, TOP),
        note="● reproduced, × differs; on the line both agree.",
    )
