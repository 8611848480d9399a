"""The qualitative figure of a paper: chosen queries, and what chosen methods rank first."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cirbench.benchmark.analysis.boards import Board, select_boards
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.values import ImageRef, TaskData
from cirbench.benchmark.records.record import label_records
from cirbench.benchmark.report.pictures import open_picture
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.figures import STYLE, render_png

TOP = 8
"""Pictures a row."""
_INCH = 0.9
_NAMES = 2.0
"""Inches for the methods' names."""
_HIT = "#1a7f37"


def choose_board(
    found: Sequence[Board], task: str, split: str | None, protocol: str | None
) -> Board:
    """Choose the one board of a task that is meant.

    Raises:
        MissingData: there is none.
        UsageError: there are several.
    """
    wanted = select_boards(found, task, split, protocol)
    if len(wanted) > 1:
        titles = "; ".join(f"{b.title}, hash {b.first.protocol.hash}" for b in wanted)
        raise UsageError(
            f"{task} has several boards ({titles}); choose by --split, or by --protocol with a "
            f"name or a hash"
        )
    return wanted[0]


def choose_records(board: Board, names: Sequence[str]) -> list[int]:
    """Choose records by methods' names or by their own file names, and give their numbers.

    Raises:
        UsageError: a name means no record, or several.
    """
    return [_choose_record(board, name) for name in names]


def _choose_record(board: Board, name: str) -> int:
    meant = [
        i
        for i, record in enumerate(board.records)
        if name in (record.cell.method, record.path.name, record.path.stem)
    ]
    if not meant:
        known = ", ".join(sorted({record.cell.method for record in board.records}))
        raise UsageError(f"no record of method {name!r} on {board.title}; known: {known}")
    if len(meant) > 1:
        stems = ", ".join(board.records[i].path.stem for i in meant)
        raise UsageError(f"{name!r} has several records; name one of {stems}")
    return meant[0]


def choose_rows(board: Board, ids: Sequence[str]) -> list[int]:
    """Choose queries by their ids, and give their rows; raises UsageError with suggestions."""
    known = board.queries.query.tolist()
    row = {name: i for i, name in enumerate(known)}
    for name in ids:
        if name not in row:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
            raise UsageError(f"no query {name!r} on {board.title}; there are {', '.join(close)}")
    return [row[name] for name in ids]


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where things stand, in inches from the top left, on a figure of a fixed size."""

    figure: Figure
    width: float
    height: float

    def axes(self, x: float, y: float, side: float) -> Axes:
        place = (
            x / self.width,
            1 - (y + side) / self.height,
            side / self.width,
            side / self.height,
        )
        axes = self.figure.add_axes(place)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def text(self, x: float, y: float, words: str, **style: object) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, words, **style)  # type: ignore[arg-type]  # style is matplotlib's


def draw_figure(board: Board, data: TaskData, records: Sequence[int], rows: Sequence[int]) -> bytes:
    """Draw a PNG: a block a query, a line a method; targets have a green frame and a check mark.

    Raises:
        CorruptData, MissingData: as `pictures.open_picture` does.
    """
    block = max(len(records) * (_INCH + 0.22), 2 * _INCH) + 0.3
    width, height = 2.3 + _NAMES + TOP * (_INCH + 0.06), block * len(rows) + 0.1
    with mpl.rc_context(STYLE):
        grid = _Grid(figure=Figure(figsize=(width, height)), width=width, height=height)
        for number, row in enumerate(rows):
            _draw_query(grid, board, data, row, number * block + 0.15)
            for line, record in enumerate(records):
                top = number * block + 0.15 + line * (_INCH + 0.22)
                name = label_records(board.records)[record]
                _draw_answer(grid, name, board.per_query[record], data, row, top)
    return render_png(grid.figure)


def _draw_query(grid: _Grid, board: Board, data: TaskData, row: int, top: float) -> None:
    query, protocol = data.queries[row], board.first.protocol
    _draw_picture(grid.axes(0.1, top, 1.2), query.reference)
    family = "text" if "text" in protocol.templates else next(iter(protocol.templates))
    text = protocol.text(family, query.group, query.fields).strip()
    grid.text(0.1, top + 1.3, "\n".join(textwrap.wrap(f"+ “{text}”", 32)[:3]), va="top")


def _draw_answer(
    grid: _Grid, name: str, arrays: PerQuery, data: TaskData, row: int, top: float
) -> None:
    rank = int(arrays.first_rank[row])
    where = f"target at rank {rank:,}" if rank else "no target"
    grid.text(2.3, top + 0.35, "\n".join(textwrap.wrap(name, 26)), va="bottom", weight="bold")
    grid.text(2.3, top + 0.4, where, va="top", color="#57606a")
    best = zip(
        arrays.top[row, :TOP], arrays.similarity[row, :TOP], arrays.hits[row, :TOP], strict=True
    )
    for place, (item, similarity, hit) in enumerate(best):
        if item < 0:
            continue
        axes = grid.axes(2.3 + _NAMES + place * (_INCH + 0.06), top, _INCH)
        _draw_picture(axes, data.gallery[item])
        axes.set_xlabel(f"{similarity:.3f}{' ✓' if hit else ''}", fontsize=7, labelpad=2)
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=3 if hit else 0.5, color=_HIT if hit else "#c0c0c0")


def _draw_picture(axes: Axes, ref: ImageRef) -> None:
    """Draw a picture at its own proportions, on white."""
    axes.imshow(open_picture(ref).convert("RGB"), aspect="equal", interpolation="lanczos")
    axes.set_anchor("C")
    for spine in axes.spines.values():
        spine.set(visible=False)
