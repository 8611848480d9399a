"""What of torch's global state a piece of work needs, set for that piece and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device` in a block."""
    kind = torch.device(device).type
    gpus = [torch.device(device)] if kind == "cuda" else []
    apple = _seeded_mps(seed) if kind == "mps" else nullcontext()
    with torch.random.fork_rng(devices=gpus), apple:
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _seeded_mps(seed: int) -> Iterator[None]:
    """What torch's own block lacks for Apple's GPU."""
    before = torch.mps.get_rng_state()
    torch.mps.manual_seed(seed)
    try:
        yield
    finally:
        torch.mps.set_rng_state(before)


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply and convolve float32 in float32 in a block: no TF32 on a GPU, no bfloat16 on a CPU.

    Convolutions on a GPU are in TF32 by torch's default, which keeps three digits.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
