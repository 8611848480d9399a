"""Files that are written whole or not at all, and their hashes. Imports nothing heavy."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder that becomes `path` if no error is raised.

    It is on the disk before it has the name, so that a power cut leaves the old file or the new
    one. What a killed writer of the same path left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.{_HOST}-{os.getpid()}-", suffix=path.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


_HOST = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:32]
_ABANDONED_SECONDS = 86_400


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems can't, and need not, for a folder
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Removes temporary files of this path whose writers are surely dead: processes of this
    machine that are gone, or any after a day."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*-*-*"):
        host, _, rest = old.name.removeprefix(f".{path.name}.").partition("-")
        number = rest.partition("-")[0]
        with suppress(OSError):
            dead = host == _HOST and number.isdigit() and not _is_alive(int(number))
            if dead or time.time() - old.stat().st_mtime > _ABANDONED_SECONDS:
                old.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_regular_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        OSError: it can't be read, or is no regular file; opening a pipe would wait for ever.
    """
    check_regular(path, path.stat())
    return path.read_bytes()


def check_regular(path: Path, state: os.stat_result) -> None:
    """Raises an OSError where a path leads to a folder, a pipe or a device."""
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
