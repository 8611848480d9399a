"""Hashes of the code that makes a vector; a change of it invalidates stored vectors."""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

MODULES = (
    "images/boxes.py",
    "images/decoding.py",
    "images/reading.py",
    "images/preprocess.py",
    "images/vectors.py",
    "embedding/pictures.py",
    "embedding/texts.py",
    "backbones/*.py",
)
"""From a file or a text to a vector."""
_VERSIONED = frozenset({"torch", "torchvision", "open_clip", "timm", "transformers", "tokenizers"})
"""Packages that a space names by their versions."""


@cache
def hash_own_code() -> str:
    """sha256 over our own code from a file or a text to a vector."""
    return hash_code(Path(str(files("cirbench.benchmark"))))


def hash_code(folder: Path) -> str:
    """sha256 over the modules in a folder that make a vector, by what they do."""
    digest = hashlib.sha256()
    for path in (path for pattern in MODULES for path in sorted(folder.glob(pattern))):
        digest.update(f"{path.name}\n{strip_source(path.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()


def strip_source(source: str) -> str:
    """A module as it is written, without comments, docstrings and blank lines."""
    lines = source.split("\n")
    dropped = {
        row
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and _is_text(node.value)
        for row in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
        elif token.type == tokenize.NL and not lines[row - 1].strip():
            dropped.add(row)
    return "\n".join(line for row, line in enumerate(lines, 1) if row not in dropped)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def hash_foreign_code(backbone: object) -> str | None:
    """sha256 over the code beside `benchmark` that a backbone's parts are from, None where there is
    none: modules of ours, as of a method whose towers it is, by what they do; the packages of a
    plug-in, and what it uses that is not named by a version."""
    digest, found, modules = hashlib.sha256(), False, sorted(set(find_modules(backbone)))
    for module in modules:
        if module.startswith("cirbench.") and not module.startswith("cirbench.benchmark."):
            found = True
            source = Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")
            digest.update(f"{module}\n{strip_source(source)}\n".encode())
    for package in sorted({module.partition(".")[0] for module in modules}):
        if package == "cirbench" or package in _VERSIONED | sys.stdlib_module_names:
            continue
        found = True
        for path in _find_sources(package):
            digest.update(f"{package} {path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest() if found else None


def find_modules(backbone: object) -> Iterator[str]:
    """The modules in which a backbone's class, its functions and its layers are defined."""
    from torch import nn  # a list of what is stored does without

    for part in (backbone, *getattr(backbone, "__dict__", {}).values()):
        layers: Iterator[Any] = part.modules() if isinstance(part, nn.Module) else iter((part,))
        for one in layers:
            yield getattr(one, "__module__", None) or type(one).__module__


def _find_sources(package: str) -> list[Path]:
    module = sys.modules[package]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if folders:
        return sorted(path for folder in folders for path in folder.rglob("*.py"))
    return [Path(module.__file__)] if module.__file__ else []
