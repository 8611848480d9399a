"""Answers as HTML, everything escaped, and as a PNG grid."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from PIL import Image
from torch import Tensor

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.reading import load_picture
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.search.query import FreeQuery
from cirbench.benchmark.search.search import Hit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 160
"""Of a thumbnail, in pixels, at most."""
_COLUMNS = 10
_MOST_ROWS = 300
"""Of a grid: matplotlib draws no figure above 65,536 pixels."""


@dataclass(frozen=True, kw_only=True)
class MethodAnswer:
    """What one method found for a query, or why it found nothing."""

    method: str
    query: FreeQuery
    hits: Sequence[Hit] = ()
    error: str = ""


def _shrink(image: Image.Image) -> Tensor:
    """A picture → (H, W, 3) uint8, no side above `SIDE`, on white where it is transparent."""
    image.thumbnail((SIDE, SIDE))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.new("RGBA", over.size, "white")
        image.alpha_composite(over)
    return torch.from_numpy(np.array(image.convert("RGB")))


@lru_cache(maxsize=4096)
def make_thumbnail(ref: ImageRef) -> Tensor:
    """(H, W, 3) uint8 of a gallery's picture, kept by its id.

    Raises:
        MissingData, CorruptData: it can't be read any more.
    """
    return load_picture(ref, _shrink, 0)[0]


def to_data_uri(pixels: Tensor) -> str:
    """(H, W, 3) uint8 → a PNG inside an address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_uri(ref: ImageRef) -> str:
    """A gallery's picture, small, inside an address."""
    return to_data_uri(make_thumbnail(ref))


def query_uri(ref: ImageRef) -> str:
    """A query's picture; not kept, since another one may come under the same name."""
    return to_data_uri(load_picture(ref, _shrink, 0)[0])


@cache
def make_environment() -> Environment:
    """The templates; whatever is put into one is escaped."""
    loaded = Environment(
        loader=PackageLoader("cirbench.benchmark.search"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loaded.globals |= {"picture_uri": picture_uri, "query_uri": query_uri}
    return loaded


def read_stylesheet() -> str:
    """The one style of all pages."""
    return (files("cirbench.benchmark.search") / "templates" / "style.css").read_text(
        encoding="utf-8"
    )


def render_page(answers: Sequence[MethodAnswer], about: str) -> str:
    """A page that stands alone: style and thumbnails are inside."""
    template = make_environment().get_template("results.html")
    return template.render(answers=answers, about=about, style=read_stylesheet())


def render_grid(answers: Sequence[MethodAnswer]) -> bytes:
    """A grid: for each answer its query's pictures, and the hits in rows of ten.

    Raises:
        UsageError: it would be too long to draw.
    """
    from matplotlib.figure import Figure

    first = max(1, *(len(answer.query.images) for answer in answers))
    columns = first + min(_COLUMNS, len(answers[0].hits))
    heights = [-(-len(answer.hits) // _COLUMNS) for answer in answers]
    if sum(heights) > _MOST_ROWS:
        raise UsageError(
            f"a grid must have at most {_MOST_ROWS} rows to be drawn as PNG, got {sum(heights)}; "
            f"use --html"
        )
    figure = Figure(figsize=(1.3 * columns, 1.75 * sum(heights)), layout="constrained")
    axes: Any = figure.subplots(sum(heights), columns, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    top = 0
    for answer, height in zip(answers, heights, strict=True):
        _draw(axes[top : top + height], answer, first)
        top += height
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axes: Any, answer: MethodAnswer, first: int) -> None:
    """One answer into its rows of axes; hits begin in the column `first`."""
    for place, ref in enumerate(answer.query.images):
        _show(axes[0, place], load_picture(ref, _shrink, 0)[0], "query" if place == 0 else "and")
    prompt = textwrap.fill(answer.query.prompt, width=20 * first)
    axes[0, 0].text(
        0,
        -0.05,
        f"{answer.method}\n{prompt}",
        fontsize=8,
        va="top",
        parse_math=False,
        transform=axes[0, 0].transAxes,
    )
    for place, hit in enumerate(answer.hits):
        row, column = divmod(place, _COLUMNS)
        title = f"{hit.rank} · {hit.similarity:.3f}"
        _show(axes[row, first + column], make_thumbnail(hit.picture), title)


def _show(axes: Axes, pixels: Tensor, title: str) -> None:
    axes.imshow(pixels.numpy())
    axes.set_title(title, fontsize=8)
