"""Files that are written whole or not at all, and their hashes. Imports nothing heavy.

What is not finished has a name that says which process writes it. A process that is killed leaves
it; the next that writes into the same folder removes it, once it is sure that nobody writes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.runtime.paths import to_text

_ABANDONED_SECONDS = 86_400
_MOST_CHARACTERS = 40
"""Of a file's name in its temporary one, so that this is not too long."""


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which becomes `path` if no error is raised.

    It is on the disk before it has the name, so that a power cut leaves the old file or the new
    one.

    Raises:
        OSError: it can't be written; names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent.absolute())
    with _name_in_errors(path):
        prefix = f".{path.stem[:_MOST_CHARACTERS]}.{_make_mark()}"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_read_umask())
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Name `path` in errors that name no file (a full disk) or the temporary one."""
    try:
        yield
    except OSError as error:
        no_room = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_room or _MARKED.fullmatch(Path(str(error.filename)).name):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is removed in the end."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent.absolute())
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{_make_mark()}") as name:
        yield Path(name)


def _make_mark() -> str:
    return f"cirbench-{_identify_home()}-{os.getpid()}-"


_MARKED = re.compile(r"\..*cirbench-([0-9a-f]{12})-([0-9]+)-\w+(\..*)?")


@cache
def _identify_home() -> str:
    """Name the scope of process ids: this machine since it started, or this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        home = f"{boot}{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        home = socket.gethostname()
    return hashlib.sha256(home.encode()).hexdigest()[:12]


@cache
def remove_abandoned(folder: Path) -> None:
    """Remove what dead processes left unfinished in a folder, once in a process.

    They are dead if they were here and are gone; of those elsewhere a day must have passed.
    """
    for old in folder.iterdir():
        if found := _MARKED.fullmatch(old.name):
            here = found[1] == _identify_home()
            with suppress(OSError):  # another was first, or it is another user's
                dead = here and not _is_alive(int(found[2]))
                if dead or time.time() - old.lstat().st_mtime > _ABANDONED_SECONDS:
                    remove(old)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems can't, and need not, for a folder
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_is_file(path: Path, what: str) -> None:
    """Raise MissingData if there is no such file."""
    if not path.is_file():
        raise MissingData(f"no {what} at {to_text(path)}; check the path")


def check_weights_path(path: Path) -> None:
    """Raise UsageError if a file that weights are written to would not be read as what it is."""
    if path.suffix != ".safetensors":
        raise UsageError(f"--output {to_text(path)} must end in .safetensors")


def read_regular_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        OSError: it can't be read, or is no regular file; opening a pipe would wait for ever.
    """
    check_regular(path, path.stat())
    return path.read_bytes()


def check_regular(path: Path, state: os.stat_result) -> None:
    """Raise an OSError where a path leads to a folder, a pipe or a device."""
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
