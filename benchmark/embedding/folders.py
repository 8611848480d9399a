"""Where the store of embeddings lies, and what lies where in it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cirbench.benchmark.runtime.errors import UsageError

DESCRIPTION = "key.json"
IMPORTED = "imported"
"""The folder in a space's for shards that another machine made."""


def find_open_folders(root: Path) -> list[Path]:
    """Find the folders of a store that every user of the machine can write to."""
    folders = (root, *root.glob("embeddings"), *root.glob("embeddings/*"))
    return [path for path in folders if path.is_dir() and path.stat().st_mode & stat.S_IWOTH]


def list_shards(folder: Path) -> list[Path]:
    """The shards in a space's folder: those that were made here, then the imported ones."""
    return [
        path
        for place in (folder, folder / IMPORTED)
        for path in sorted(place.glob("[!.]*.safetensors"))
    ]


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn errors of writing into the store into a UsageError that says what to do.

    Raises:
        UsageError: names the file, if the system does.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"the store of embeddings cannot write {folder / str(error.filename or '')} "
            f"({error.strerror}); what is stored is intact; free space with bench cache prune, "
            "set CIRBENCH_CACHE to another folder, or pass --cache read-only or --cache off"
        ) from error
