"""Speed and memory as ratios within one run: `make perf`. Never a test: it prints, people judge."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from cirbench.benchmark.bootstrap import Design, resampled_means
from cirbench.benchmark.ranking import dot_product, rank

Row = tuple[str, str, str, str]


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def unit_vectors(rows: int, width: int, seed: int) -> torch.Tensor:
    """(rows, width) float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


def ranking(queries: int, gallery: int, width: int, depth: int) -> tuple[float, float, float]:
    """Seconds of `rank`, of the bare matmul and top-k of the same size, and peak memory in MB."""
    q, g = unit_vectors(queries, width, 0), unit_vectors(gallery, width, 1)
    positives = [(row % gallery,) for row in range(queries)]

    def bare() -> None:
        for start in range(0, queries, 512):
            (q[start : start + 512] @ g.T).topk(depth, dim=1)

    baseline = seconds(bare, 1)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_megabytes()
    ours = seconds(lambda: rank(dot_product(q, g), positives, gallery, depth=depth), 1)
    return ours, baseline, peak_megabytes() - before


def peak_megabytes() -> float:
    """The most resident memory since the last reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ranking_row(queries: int, gallery: int, width: int, depth: int) -> Row:
    """How ranking compares with the least that any ranking does."""
    ours, bare, megabytes = ranking(queries, gallery, width, depth)
    size = f"{queries:,} × {gallery:,} × {width}, k = {depth}"
    return (
        f"ranking {size}",
        "bare matmul + top-k",
        f"{ours / bare:.2f}",
        f"{ours:.1f} s, {megabytes:,.0f} MB above the inputs",
    )


def bootstrap_row() -> Row:
    """Intervals for 10,000 queries × 6 metrics × 2,000 resamples."""
    values = np.random.default_rng(0).random((10_000, 6))
    design = Design(reference=np.arange(10_000), group=np.zeros(10_000, dtype=np.int64))
    taken = seconds(lambda: resampled_means(values, design), 1)
    return ("bootstrap, 10,000 queries × 6 metrics × 2,000 resamples", "–", "–", f"{taken:.1f} s")


def start_up_row(arguments: list[str]) -> Row:
    """What `bench` costs before it does anything."""
    run = "import sys; from cirbench.benchmark.cli import main; main()"
    command = [sys.executable, "-P", "-c", run, *arguments]
    bench = seconds(lambda: subprocess.run(command, capture_output=True, check=False), 5)
    bare = seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 5)
    name = f"bench {' '.join(arguments)}"
    return (name, "python -c pass", f"{bench / bare:.1f}", f"{bench - bare:.2f} s more")


def main() -> None:
    """Prints the table."""
    rows = [
        start_up_row(["--help"]),
        start_up_row(["ls"]),
        bootstrap_row(),
        ranking_row(2_000, 16_983, 768, 200),
        ranking_row(10_000, 100_000, 768, 200),
    ]
    print(tabulate(rows, ["what", "against", "ratio", "measured"], tablefmt="github"))


if __name__ == "__main__":
    main()
