"""The code that makes a vector, by content: what a stored vector must not outlive."""

from __future__ import annotations

import ast
import hashlib
import inspect
from functools import cache
from importlib.resources import files
from pathlib import Path

_MODULES = ("decoding.py", "images.py", "preprocess.py", "embed.py", "texts.py", "backbones/*.py")
"""From a file or a text to a vector."""


@cache
def code_sha256(backbone: type | None = None) -> str:
    """sha256 over that code without comments and docstrings, and a backbone's own module."""
    folder = Path(str(files("cirbench.benchmark")))
    paths = [path for pattern in _MODULES for path in sorted(folder.glob(pattern))]
    if backbone is not None and (own := inspect.getsourcefile(backbone)):
        paths.append(Path(own))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(strip(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def strip(source: str) -> str:
    """The statements of a module, without what changes nothing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]  # it has a body
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
