"""What a part finds, what it is told of the run, and how work on a GPU is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a part's table.

    Attributes:
        value: the figure, for machines; None where there is none.
        shown: the figure with its unit, or a sentence.
        target: what is wanted of it; empty where nothing is.
        ok: whether it is kept; None where nothing is wanted or nothing could be measured.
    """

    what: str
    shown: str
    value: float | None = None
    target: str = ""
    ok: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything a run takes."""

    emoji_queries: int | None = None
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16", "amp", "amp_bf16")
    trained: str = "emoji-clip"
    steps: int = 20
    batch: int = 64
    models: tuple[str, ...] = ("ViT-B-32-quickgelu", "ViT-L-14-quickgelu", "RN50x4-quickgelu")
    pictures: int = 2048
    distinct_pictures: int = 512
    picture_side: tuple[int, int] = (500, 375)
    tower_batch: int = 256
    ranked_queries: int = 10_000
    ranked_gallery: int = 1_000_000


SMALL = Sizes(
    emoji_queries=8,
    precisions=("fp32", "amp_bf16"),
    trained="fake",
    steps=8,
    batch=8,
    models=("fake",),
    pictures=24,
    distinct_pictures=6,
    picture_side=(60, 48),
    tower_batch=8,
    ranked_queries=20,
    ranked_gallery=300,
)
"""For a machine without a GPU, where the run shows that it works and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The device of a part, its sizes, and a folder for its files."""

    device: str
    folder: Path
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def cores(self) -> int:
        """How many threads decode pictures."""
        return len(os.sched_getaffinity(0))

    def time(self, work: Callable[[], object], rounds: int = 3) -> float:
        """The least seconds that work takes, until the GPU is done; once before that unmeasured."""
        work()
        return min(self.time_once(work) for _ in range(rounds))

    def time_once(self, work: Callable[[], object]) -> float:
        """The seconds that work takes, until the GPU is done."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Wait until the GPU is done."""
        if self.on_gpu:
            torch.cuda.synchronize()


def judge(what: str, value: float, most: float, *, unit: str = "", form: str = ".1e") -> Finding:
    """A figure that must not exceed a limit."""
    return Finding(
        what=what,
        value=value,
        shown=f"{value:{form}}{unit}",
        target=f"≤ {most:g}{unit}",
        ok=bool(value <= most),
    )


def say_error(error: BaseException) -> str:
    """One line of an error, short enough for a table."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def describe_machine(device: str) -> dict[str, Any]:
    """Card, processor and versions, for the page's head."""
    from cirbench.benchmark.runtime.provenance import describe_environment

    found = describe_environment(device)
    machine: dict[str, Any] = {
        "device": device,
        "gpu": found.gpu,
        "gpu_memory_gib": None,
        "cpu": found.cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": found.python,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    if found.gpu:
        memory = torch.cuda.get_device_properties(device).total_memory
        machine["gpu_memory_gib"] = round(memory / 2**30, 1)
    return machine


def measure_peak() -> dict[str, float]:
    """The most memory this process has had, in MB; `gpu` is what its tensors took at once."""
    from cirbench.benchmark.runtime.provenance import read_peak_memory_bytes

    peak = {"ram": read_peak_memory_bytes() / 2**20}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
