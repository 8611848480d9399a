"""The style of all figures, and their rendering to reproducible bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#f0e442")
"""Okabe and Ito's, told apart by most colour-blind people."""


STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "cirbench",
    "text.parse_math": False,  # a $ in a name is a $
}


def render_svg(figure: Figure, digest: str) -> bytes:
    """Render a figure as SVG without a date; `digest` says what data it shows."""
    return _render(figure, "svg", {"Date": None, "Description": f"data {digest}"})


def render_png(figure: Figure) -> bytes:
    """Render a figure as PNG of 150 dots an inch, without a date."""
    return _render(figure, "png", {"Software": None})


def _render(figure: Figure, format: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=format, metadata=metadata, dpi=150)
    return buffer.getvalue()
