"""How cost grows with images and queries: 1, 2, 4 and 8 times as many, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image
from torch import Tensor

from cirbench.benchmark.api.values import ImageRef, Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_with
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.images.reading import make_file_ref, split_into_chunks
from cirbench.benchmark.ranking.rank import rank_vectors
from cirbench.benchmark.runtime.figures import COLOURS, STYLE, render_svg
from cirbench.benchmark.runtime.files import write_whole
from perf.measure import medians, seconds, unit_vectors
from perf.ranks import WIDTH, made_task, to_metrics, wanted
from perf.records import make_records, run_bench
from perf.towers import QUIET, embedded, embedded_clip, store_in

FACTORS = (1, 2, 4, 8)
MOST_EXPONENT = 1.1
_IMAGES, _QUERIES, _GALLERY = 128, 1_000, 4_000
_PICTURES, _TEXTS, _RECORDS = 15_000, 15_000, 125


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


def large_growth(folder: Path) -> dict[str, list[float]]:
    """What grows → its seconds at each of FACTORS, up to a whole data set; once each."""
    refs = _small_pictures(folder / "small", _PICTURES * FACTORS[-1])
    return {
        f"storing {_PICTURES:,} pictures": [
            seconds(partial(_store_pictures, refs[: _PICTURES * n], folder / f"pictures-{n}"))
            for n in FACTORS
        ],
        f"storing {_TEXTS:,} texts": [
            seconds(partial(_store_texts, _TEXTS * n, folder / f"texts-{n}")) for n in FACTORS
        ],
        f"a leaderboard of {_RECORDS} records": list(_leaderboards(folder)),
    }


def _small_pictures(folder: Path, count: int) -> list[ImageRef]:
    folder.mkdir()
    for number in range(count):
        colour = (number % 256, number // 256 % 256, number // 65_536)
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    return [make_file_ref(folder / f"{number}.png", str(number)) for number in range(count)]


def _store_pictures(refs: Sequence[ImageRef], cache: Path) -> None:
    with store_in(cache), QUIET.stage("perf", len(refs)) as stage:
        embedder = Embedder(
            backbone=load_backbone("fake"),
            preprocess="clip",
            size=BatchSize(value=64),
            workers=2,
            stage=stage,
        )
        embed_with([embedder], refs, Mode.USE, QUIET)


def _store_texts(count: int, cache: Path) -> None:
    texts = [f"a picture of number {number}" for number in range(count)]
    with store_in(cache):
        features = TextFeatures(backbone=load_backbone("fake"), truncate=False, mode=Mode.USE)
        for some in split_into_chunks(texts, 64):
            features.of(some)
        features.flush()


def _leaderboards(folder: Path) -> Iterator[float]:
    """Of 1, 2, 4 and 8 times as many records, nothing of which was computed before."""
    root, there = folder / "many", 0
    for factor in FACTORS:
        make_records(root, range(there, _RECORDS * factor))
        there = _RECORDS * factor
        yield run_bench(["leaderboard", "--output", str(root)], folder / f"results-{factor}")[0]


def _ranked(queries: Tensor, gallery: Tensor) -> None:
    rank_vectors(queries, gallery, wanted(len(queries), len(gallery), 50))


def images_needed() -> int:
    """How many pictures `growth` takes."""
    return _IMAGES * FACTORS[-1]


def exponent(times: Sequence[float]) -> float:
    """The slope of log time over log factor: 1 is linear."""
    return float(np.polyfit(np.log(FACTORS), np.log(times), 1)[0])


def write_plot(path: Path, found: Mapping[str, Sequence[float]]) -> None:
    """Draw time over factor, both logarithmic, as SVG; dashed lines are linear growth."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        for colour, (name, times) in zip(COLOURS, found.items(), strict=False):
            axes.plot(FACTORS, times, "o-", color=colour, label=name)
            axes.plot(FACTORS, [times[0] * n for n in FACTORS], "--", color=colour, alpha=0.5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(FACTORS, [f"× {n}" for n in FACTORS])
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own would write formulas
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_ylabel("seconds")
        figure.legend(frameon=False, loc="outside right upper")
    content = render_svg(figure, "of this run")
    with write_whole(path) as temporary:
        temporary.write_bytes(content)
