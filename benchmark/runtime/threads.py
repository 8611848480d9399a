"""Torch's threads: a limit to their busy waiting, and work that is split among them.

Imports nothing heavy, since the limit must be set before torch is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

SPINS = 10_000
"""Below a millisecond: a few times what the parts of one operation wait for each other, and far
less than a tower waits for the next batch."""


def limit_openmp_spin() -> None:
    """Shorten the busy wait of OpenMP's threads, unless the environment sets it.

    By default GNU's OpenMP, which torch brings on Linux, lets them spin for 300,000 rounds, on
    cores that the threads which decode pictures could use: embedding is then a fifth slower. Child
    processes and submitted jobs inherit it.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def map_in_threads(make: Callable[[Item], Made], items: Sequence[Item], threads: int) -> list[Made]:
    """Make each item in one thread, so many at a time; results in the items' order.

    Inside, an operation of torch has that one thread alone. That is faster than a thread after
    thread in which each operation has all, wherever there is work between the operations.
    """
    import torch

    if threads == 1 or len(items) < 2:
        return list(map(make, items))
    cores = torch.get_num_threads()

    @torch.inference_mode()
    def make_alone(item: Item) -> Made:
        torch.set_num_threads(1)
        return make(item)

    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(make_alone, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)
