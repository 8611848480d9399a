"""Prints what `make gpu` needs beside a GPU machine's own packages: `make wheels`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

NEEDED = (
    "filelock",
    "jinja2",
    "open-clip-torch",
    "pillow",
    "platformdirs",
    "pydantic",
    "rich",
    "safetensors",
    "tabulate",
)
"""What is imported from a picture to a ranking; plots and pages are left out, since what travels to
such a machine must be small."""
THERE = frozenset({"torch", "torchvision", "transformers", "numpy", "huggingface-hub"})
"""What comes with the machine."""


def list_needs(packages: Iterable[str] = NEEDED) -> dict[str, str]:
    """List packages and what they need, as installed here: name → version."""
    found: dict[str, str] = {}
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name in THERE or name in found or not (installed := _read_version(name)):
            continue
        found[name] = installed
        waiting += _read_names(name)
    return found


def _read_names(package: str) -> Iterator[str]:
    for line in requires(package) or ():
        name = re.match(r"[\w.-]+", line)
        if name and "extra ==" not in line:
            yield re.sub(r"[-_.]+", "-", name[0]).lower()


def _read_version(name: str) -> str | None:
    """None where it is not installed: another system's, or another Python's."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(*(f"{name}=={installed}" for name, installed in sorted(list_needs().items())))
