"""Writes weights in half precision, as those that are shipped.

python -P -m cirbench.benchmark.training.halve FOLDER FILE...
"""

from __future__ import annotations

import sys
from pathlib import Path

from cirbench.benchmark.checkpoints import read_checkpoint, write_checkpoint


def halve(path: Path, output: Path) -> None:
    """Write a file of ours again with every float as float16; header and names stay.

    Raises:
        ValueError: a number is too large for half precision.
    """
    checkpoint = read_checkpoint(path)
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.content.items()
    }
    if spoiled := [name for name, tensor in halves.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path} must hold numbers up to 65504, and has larger: {spoiled}")
    write_checkpoint(output, halves, checkpoint.provenance)


if __name__ == "__main__":
    folder, *files = map(Path, sys.argv[1:])
    for file in files:
        halve(file, folder / file.name)
