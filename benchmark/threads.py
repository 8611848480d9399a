"""How torch's threads wait. Imports nothing heavy, since it is too late once torch is imported."""

from __future__ import annotations

import os

SPINS = 10_000
"""Below a millisecond: a few times what the parts of one operation wait for each other, and far
less than a tower waits for the next batch."""


def sleep_soon() -> None:
    """Lets torch's waiting threads sleep soon, unless the environment says otherwise.

    By default GNU's OpenMP, which torch brings on Linux, lets them spin for 300,000 rounds, on
    cores that the threads which decode pictures could use: embedding is then a fifth slower. Child
    processes and submitted jobs inherit it.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
