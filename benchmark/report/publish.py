"""The leaderboard and its plots: written, or compared with those on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from cirbench.benchmark.analysis.boards import Board, read_boards
from cirbench.benchmark.analysis.published import read_published
from cirbench.benchmark.report.markdown import name_plots, render_leaderboard
from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.runtime.kept import keep

PAGE = "leaderboard.md"
_PLOTS = TypeAdapter(
    dict[str, bytes], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)


def publish(root: Path, found: Sequence[Board]) -> list[Path]:
    """Write what differs from what is there, and return all paths."""
    contents = {root / PAGE: render_leaderboard(found, read_published()).encode()}
    for board in found:
        plots = keep(_PLOTS, ("plots", board.digest), partial(_render_plots, board))
        for kind, name in name_plots(board).items():
            for ending in (".svg", ".png"):
                contents[_add_ending(root / name, ending)] = plots[kind + ending]
    for path, content in contents.items():
        if not path.is_file() or path.read_bytes() != content:
            with write_whole(path) as temporary:
                temporary.write_bytes(content)
    return list(contents)


def _render_plots(board: Board) -> dict[str, bytes]:
    """Render a board's plots, by their kind and ending."""
    from cirbench.benchmark.report.plots import draw  # matplotlib, which takes a while
    from cirbench.benchmark.runtime.figures import render_png, render_svg

    rendered = {}
    for kind, figure in draw(board).items():
        rendered[f"{kind}.svg"] = render_svg(figure, board.digest)
        rendered[f"{kind}.png"] = render_png(figure)
    return rendered


def find_stale(root: Path) -> list[Path]:
    """Find the files that `publish` would have to write anew.

    Plots are held to the data they say they show, not to their bytes, which change with the
    version of matplotlib.
    """
    found = read_boards(root)
    page_path = root / PAGE
    old = not page_path.is_file() or page_path.read_text(encoding="utf-8") != render_leaderboard(
        found, read_published()
    )
    plots = [path for board in found for path in _find_stale_plots(root, board)]
    return [page_path, *plots] if old else plots


def _find_stale_plots(root: Path, board: Board) -> Sequence[Path]:
    bases = [root / name for name in name_plots(board).values()]
    svgs = [_add_ending(base, ".svg") for base in bases]
    pngs = [_add_ending(base, ".png") for base in bases]
    return [
        p for p in svgs if not p.is_file() or board.digest not in p.read_text(encoding="utf-8")
    ] + [p for p in pngs if not p.is_file()]


def _add_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
