"""What the run imports, on a machine without a network that has its own PyTorch and little else.

cirbench itself is taken from this tree and need not be installed. Imports the standard library
alone.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WHEELS = ROOT / "build/wheels"
_INSTALLED = ROOT / "build/gpu/packages"
_TREE = ROOT / "build/gpu/tree"
_ELSEWHERE = (
    "matplotlib",
    "pandas",
    "pycocotools",
    "python-multipart",
    "starlette",
    "submitit",
    "typer",
    "uvicorn",
)
"""Dependencies of cirbench that no part imports."""
_INDIRECT = ("ftfy", "regex", "timm")
"""What open_clip imports in turn."""


class PackagesMissing(Exception):
    """Names what is missing, and how it is brought along."""


def provide_packages(wheels: Path = WHEELS) -> None:
    """Put this tree's cirbench on the path, and what else is missing from wheels, where there are.

    Raises:
        PackagesMissing: some are still missing.
    """
    _link_tree()
    sys.path[:0] = [str(_TREE), str(_INSTALLED)]
    if find_missing() and (found := sorted(wheels.glob("*.whl"))):
        _install(found, wheels)
    if missing := find_missing():
        raise PackagesMissing(
            f"this Python ({sys.executable}, {sys.version.split()[0]}) lacks {', '.join(missing)}; "
            "on a machine with a network run make wheels, bring build/wheels along with the tree, "
            "and run make gpu again, which installs from there without a network"
        )


def find_missing() -> list[str]:
    """Find the requirements that are not installed, or too old."""
    importlib.invalidate_caches()
    return [name + bound for name, bound in _read_requirements() if not _has(name, bound)]


def _read_requirements() -> Iterator[tuple[str, str]]:
    """Name and lower bound (">=1.2", or nothing) of each distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(.*)", line).groups()  # type: ignore[union-attr]  # ours
        if name not in _ELSEWHERE:
            yield name, bound
    yield from ((name, "") for name in _INDIRECT)


def _has(name: str, bound: str) -> bool:
    try:
        return _to_numbers(version(name)) >= _to_numbers(bound)
    except PackageNotFoundError:
        return False


def _to_numbers(text: str) -> list[int]:
    """The leading numbers of a version: 2.11.0+cu130 → [2, 11, 0]."""
    return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]


def _install(found: list[Path], wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    target = ["--upgrade", "--target", str(_INSTALLED)]
    done = subprocess.run(
        [*command, *target, *map(str, found)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PackagesMissing(f"pip cannot install from {wheels}: {done.stderr.strip()}")


def _link_tree() -> None:
    """Lay this tree's folders out under the names they are imported by."""
    package = _TREE / "cirbench"
    package.mkdir(parents=True, exist_ok=True)
    face = [path for path in (ROOT / "benchmark/face").iterdir() if path.is_file()]
    for path in [*face, *(ROOT / name for name in ("benchmark", "datasets", "methods", "slurm"))]:
        link = package / path.name
        if not link.is_symlink() or link.resolve() != path.resolve():
            link.unlink(missing_ok=True)
            with suppress(FileExistsError):  # another process was first
                link.symlink_to(path)
