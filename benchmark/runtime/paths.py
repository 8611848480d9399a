"""Names that others wrote, before they become paths: the one place that decides which may."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cirbench.benchmark.runtime.errors import CorruptData, UsageError

MOST_NAME_BYTES = 255
MOST_PATH_BYTES = 4095
"""What Linux takes of one name, and of a whole path."""


def check_path(path: str, origin: str) -> str:
    """A path that a file system can hold, wherever it leads.

    Args:
        origin: where it is written, for the error.

    Raises:
        CorruptData: it is empty or too long, or holds a NUL or half a character.
        UsageError: this process's locale has no bytes for it.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise CorruptData(f"{origin}: a path must be valid Unicode, got {path!a}") from error
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{origin}: the path {path!a} needs a UTF-8 locale; set PYTHONUTF8=1"
        ) from error
    if not path.strip() or "\0" in path:
        raise CorruptData(f"{origin}: a path must be a non-empty name without NUL, got {path!r}")
    if len(encoded) > MOST_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MOST_NAME_BYTES:
        raise CorruptData(
            f"{origin}: a path must be at most {MOST_PATH_BYTES} bytes, and each name in it "
            f"{MOST_NAME_BYTES}, got {path[:40]!r}…"
        )
    return path


def check_inside(relative: str, origin: str) -> str:
    """A path that must not leave the folder that it is relative to.

    Raises:
        CorruptData: it is absolute, climbs, or is no path of ours (a backslash); or as
            `check_path`.
    """
    check_path(relative, origin)
    if relative.startswith("/") or ".." in relative.split("/"):
        raise CorruptData(f"{origin}: a path must stay inside its folder, got {relative!r}")
    if "\\" in relative or re.match(r"[A-Za-z]:", relative):
        raise CorruptData(f"{origin}: a path must be written with /, as on Linux, got {relative!r}")
    return relative


def to_text(path: Path | str) -> str:
    """A path as text that can be printed and written: bytes that are no UTF-8 as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def to_line(text: str) -> str:
    """A name on one line, without characters that would move a cursor or turn what is written."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
