"""How cost grows with images and queries: 1, 2, 4 and 8 times as many, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.ranking.rank import rank_vectors
from cirbench.benchmark.runtime.figures import COLOURS, STYLE, render_svg
from cirbench.benchmark.runtime.files import write_whole
from perf.measure import medians, unit_vectors
from perf.ranks import WIDTH, made_task, to_metrics, wanted
from perf.towers import embedded, embedded_clip

FACTORS = (1, 2, 4, 8)
MOST_EXPONENT = 1.1
_IMAGES, _QUERIES, _GALLERY = 128, 1_000, 4_000


def growth(refs: Sequence[ImageRef]) -> dict[str, list[float]]:
    """What grows → its seconds at each of FACTORS; `refs` are as many as the last takes."""
    backbone = embedded_clip()
    queries = unit_vectors(_QUERIES * FACTORS[-1], WIDTH, 0)
    gallery = unit_vectors(_GALLERY * FACTORS[-1], WIDTH, 1)
    works: Mapping[str, Callable[[int], object]] = {
        f"embedding {_IMAGES} images": lambda n: embedded(backbone, refs[: _IMAGES * n]),
        f"ranking {_QUERIES:,} queries": lambda n: _ranked(queries[: _QUERIES * n], gallery),
        f"ranking {_GALLERY:,} images": lambda n: _ranked(queries, gallery[: _GALLERY * n]),
        f"scoring {_QUERIES:,} queries": lambda n: to_metrics(
            made_task(_QUERIES * n, _GALLERY), queries[: _QUERIES * n], gallery[:_GALLERY]
        ),
    }
    return {name: medians(*(partial(work, n) for n in FACTORS)) for name, work in works.items()}


def _ranked(queries: Tensor, gallery: Tensor) -> None:
    rank_vectors(queries, gallery, wanted(len(queries), len(gallery), 50))


def images_needed() -> int:
    """How many pictures `growth` takes."""
    return _IMAGES * FACTORS[-1]


def exponent(times: Sequence[float]) -> float:
    """The slope of log time over log factor: 1 is linear."""
    return float(np.polyfit(np.log(FACTORS), np.log(times), 1)[0])


def write_plot(path: Path, found: Mapping[str, Sequence[float]]) -> None:
    """Time over factor, both logarithmic, as SVG; dashed lines are linear growth."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for colour, (name, times) in zip(COLOURS, found.items(), strict=False):
            axes.plot(FACTORS, times, "o-", color=colour, label=name)
            axes.plot(FACTORS, [times[0] * n for n in FACTORS], "--", color=colour, alpha=0.5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(FACTORS, [f"× {n}" for n in FACTORS])
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own would write formulas
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_ylabel("seconds")
        axes.legend(frameon=False)
    content = render_svg(figure, "of this run")
    with write_whole(path) as temporary:
        temporary.write_bytes(content)
