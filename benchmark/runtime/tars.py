"""Tar files that are whole."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

_CHUNK_BYTES = 1 << 20


def read_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar file, in order.

    The standard library takes a file that ends between two members, or at a damaged header, or in
    the middle of two that were joined, for a whole one. A whole one ends in a block of zeros, and
    in nothing else behind it.

    Raises:
        tarfile.TarError: it is not whole; after its last member.
    """
    yield from tar
    file = tar.fileobj
    assert file is not None  # only of one that was closed
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end marker is missing, so members may be, too")
    while rest := file.read(_CHUNK_BYTES):
        if any(rest):
            raise tarfile.ReadError("it goes on behind its end marker")
