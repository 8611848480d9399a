"""The user's cache folder, and results in it that are computed once and found again by a digest."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from cirbench.benchmark.runtime.files import write_whole

Result = TypeVar("Result")
RESULTS = "results"
"""The folder of kept results in the cache folder."""
_ROOMS = ("analysis", "api", "records", "report", "runtime", "scoring")
"""From a record to a result. A change in one of them forgets every result, needed or not: a stale
number would be worse than a second of work."""
_DAY_SECONDS = 86_400


def find_cache_root() -> Path:
    """CIRBENCH_CACHE, else the platform's place for caches."""
    return Path(os.environ.get("CIRBENCH_CACHE") or user_cache_path("cirbench")).absolute()


def keep(kind: TypeAdapter[Result], of: Iterable[object], compute: Callable[[], Result]) -> Result:
    """Give what `compute` gives, from the cache folder where it has been computed before.

    Args:
        kind: how a result is written as JSON, numbers to their last bit.
        of: all that decides the result: its name, digests of data, settings.

    A file that is cut, altered or cannot be written is as good as none.
    """
    told = json.dumps([*of, hash_code()], sort_keys=True, default=list)
    name = hashlib.sha256(told.encode()).hexdigest()
    path = find_cache_root() / RESULTS / name[:2] / name[2:34]
    with suppress(OSError, ValidationError):
        digest, _, text = path.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() == digest:
            return kind.validate_json(text)
    result = compute()
    text = kind.dump_json(result)
    with suppress(OSError), write_whole(path) as temporary:
        temporary.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    return result


def list_results(older_than_days: float = 0) -> list[Path]:
    """List the files of kept results that were computed so long ago."""
    limit = time.time() - older_than_days * _DAY_SECONDS
    found = (path for path in (find_cache_root() / RESULTS).glob("*/*") if path.is_file())
    return [path for path in found if path.stat().st_mtime <= limit]


@cache
def hash_code() -> str:
    """sha256 over our code from a record to a result, and what draws and counts in it."""
    digest = hashlib.sha256()
    for name in ("matplotlib", "numpy"):
        digest.update(f"{name} {version(name)}\n".encode())
    root = Path(str(files("cirbench.benchmark")))
    for path in (path for room in _ROOMS for path in sorted((root / room).rglob("*"))):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()
