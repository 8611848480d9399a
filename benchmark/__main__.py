"""`bench` as a module, for torchrun: `python -m cirbench.benchmark`."""

from __future__ import annotations

from cirbench.benchmark.cli import main

main()
