"""Methods and a backbone that go wrong in every way a job can, for the tests of sweeps.

`sweeping.install_faults` copies this file into a folder with entry points, so that jobs find them.
FAULTS names a folder where a method leaves a mark, for those that go wrong only once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

from torch.nn.functional import normalize

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.backbones import fake


class Fault(Method):
    """Image-only, after something has happened."""

    def __init__(self) -> None:
        self.happen()

    @classmethod
    def build(cls, *, backbone, checkpoint):
        return cls()

    @classmethod
    def happen(cls) -> None:
        """What goes wrong."""

    @classmethod
    def mark(cls) -> bool:
        """Leaves the method's mark; whether it was there before."""
        path = Path(os.environ["FAULTS"], cls.name)
        there = path.exists()
        path.touch()
        return there

    def compose(self, queries):
        return normalize(queries.reference_features, dim=-1)


class Crash(Fault):
    name: ClassVar[str] = "crash"

    @classmethod
    def happen(cls) -> None:
        for i in range(30):
            print(f"line {i}", flush=True)
        raise RuntimeError("it broke [here]")


class Killed(Fault):
    name: ClassVar[str] = "killed"

    @classmethod
    def happen(cls) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Greedy(Fault):
    """Out of memory, simulated, the first time."""

    name: ClassVar[str] = "greedy"

    @classmethod
    def happen(cls) -> None:
        if not cls.mark():
            raise MemoryError("simulated")


class Sleeper(Fault):
    """Never ends, the first time."""

    name: ClassVar[str] = "sleeper"

    @classmethod
    def happen(cls) -> None:
        if not cls.mark():
            time.sleep(600)


class Slow(Sleeper):
    name: ClassVar[str] = "slow"


class Brief(Fault):
    """Ends when the test says so, by a file."""

    name: ClassVar[str] = "brief"

    @classmethod
    def happen(cls) -> None:
        cls.mark()
        while not Path(os.environ["FAULTS"], "go").exists():
            time.sleep(0.05)


def broken_backbone(name, *, device, precision):
    raise RuntimeError("no such towers")


def mortal_backbone(name, *, device, precision):
    """The fake one; an array's second job is killed at its second batch, once."""
    backbone = fake.load(name, device=device, precision=precision)
    encode, mark = backbone.encode_images, Path(os.environ["FAULTS"], "mortal")
    batches = []

    def encode_or_die(pixels):
        batches.append(len(pixels))
        if os.environ.get("SLURM_ARRAY_TASK_ID") == "1" and len(batches) == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(pixels)

    backbone.encode_images = encode_or_die
    return backbone


def half_dead_backbone(name, *, device, precision):
    """One task of a job is killed, the other would wait for it all night."""
    if os.environ.get("SLURM_PROCID") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
