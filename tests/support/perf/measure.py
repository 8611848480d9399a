"""What a row of the table is, and how time and memory are taken."""

from __future__ import annotations

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_SAMPLED_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `ok` says whether the ratio keeps the target."""

    name: str
    against: str
    ratio: float
    target: str
    ok: bool
    measured: str


def medians(*works: Callable[[], object], rounds: int = 3) -> list[float]:
    """Median wall time of each, in turns, so that what else the machine does meets all alike."""
    turns = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of work that is done once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass
class Memory:
    """The most anonymous memory above what there was, in MB; mapped files are not counted."""

    peak: float = 0.0


@contextmanager
def anonymous_memory() -> Iterator[Memory]:
    """Watches this process while open (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be there to be used again
    memory, before, over = Memory(), _anonymous_megabytes(), threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLED_SECONDS):
            memory.peak = max(memory.peak, _anonymous_megabytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield memory
    finally:
        over.set()
        watcher.join()


def _anonymous_megabytes() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def unit_vectors(rows: int, width: int, seed: int) -> torch.Tensor:
    """(rows, width) float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)
