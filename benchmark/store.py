"""Embeddings on disk, addressed by content: no picture is encoded twice by the same tower.

A *space* is everything that can change a vector besides the picture: towers, tokenizer,
preprocessing, precision, library versions, the content of our own code. It has a folder, named by
the sha256 of its description, which lies beside the data as `key.json` and in every shard, and is
compared when a shard is read. A backbone's name is no part of it: the same files under other names
share a space. In a space, a row is found by the content of its picture, wherever that lies and
whatever it is called.

Shards are safetensors files of at most 4,096 rows, named by the sha256 of their own bytes and put
in place by a rename: a shard that is there is whole, and one that was altered no longer has its
name. A run that is killed loses the shard in work. Processes that want the same rows wait for each
other by a lock that dies with its holder; where the file system has no such locks, two may do the
same work, and store the same bytes.

The number of threads and the batch size are no part of a space, though they move a vector's last
digits (up to 4e-6 was seen): the same bytes come from the same machine with the same settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cirbench.benchmark.encoding_code import code_sha256
from cirbench.benchmark.errors import CorruptData, UsageError
from cirbench.benchmark.files import sha256_of_file, written_whole
from cirbench.benchmark.interfaces import Backbone, Mode
from cirbench.benchmark.provenance import package_versions

SHARD_ROWS = 4096
_PACKAGES = ("torch", "torchvision", "pillow", "open_clip_torch", "timm", "transformers")
KEY_DIGITS = 32
IMPORTED = "imported.txt"
_PATIENCE_SECONDS = 5


def default_root() -> Path:
    """CIRBENCH_CACHE, else the platform's place for caches."""
    return Path(os.environ.get("CIRBENCH_CACHE") or user_cache_path("cirbench"))


@dataclass(frozen=True, kw_only=True)
class Space:
    """Everything but the picture that can change its embedding.

    Attributes:
        preprocess: what is done to a picture, or a text, before it reaches the tower.
        device: its kind alone; cuda:0 and cuda:1 compute alike, a CPU does not.
        tokenizer: sha256, for texts and prompts.
        width: of a row; None where any will do.
        checkpoint: sha256 of the method's weights that make the pseudo-words of prompts.
        code: sha256 of the code that makes a vector.
        backbone: its name, for a person; not part of the key.
    """

    kind: str
    backbone: str
    weights: str
    architecture: str
    preprocess: str
    precision: str
    device: str
    width: int | None = None
    tokenizer: str | None = None
    checkpoint: str | None = None
    packages: Mapping[str, str | None] = field(default_factory=lambda: encoding_packages())
    code: str = field(default_factory=lambda: code_sha256())

    @property
    def canonical(self) -> str:
        """The text that is hashed."""
        return canonical(asdict(self))

    @property
    def key(self) -> str:
        return key_of(asdict(self))


def encoding_packages() -> dict[str, str | None]:
    """Versions of the libraries that decide a vector."""
    return {name: version for name, version in package_versions().items() if name in _PACKAGES}


def canonical(space: Mapping[str, Any]) -> str:
    """One text for one space; those of before `code` had the backbone's name in their keys."""
    said = {name: value for name, value in space.items() if name != "backbone"}
    return json.dumps(said if "code" in space else space, sort_keys=True, separators=(",", ":"))


def key_of(space: Mapping[str, Any]) -> str:
    """sha256 of a space's description, whichever version of this code wrote it."""
    return hashlib.sha256(canonical(space).encode()).hexdigest()


def unwritable(folder: Path, error: OSError) -> UsageError:
    """What a user is told when the store can't be written: full, read-only, no folder."""
    return UsageError(
        f"embeddings can't be stored in {folder} ({error.strerror}); what is there stays; make "
        f"room (bench cache prune), set CIRBENCH_CACHE to another folder, or give --cache off, or "
        f"--cache read-only to use what is there"
    )


def image_space(backbone: Backbone, preprocess: str) -> Space:
    """Under which a backbone's embeddings of pictures are stored."""
    return _space("image", backbone, backbone.image_spec.fingerprint(preprocess))


def text_space(backbone: Backbone, *, truncate: bool, checkpoint: str | None = None) -> Space:
    """Under which its embeddings of texts are stored; with a checkpoint, those of prompts with the
    pseudo-words that these weights make."""
    kind = "prompt" if checkpoint else "text"
    space = _space(kind, backbone, "cut to the context" if truncate else "uncut")
    return replace(space, tokenizer=backbone.tokenizer_sha256, checkpoint=checkpoint)


def _space(kind: str, backbone: Backbone, preprocess: str) -> Space:
    return Space(
        kind=kind,
        backbone=backbone.name,
        weights=backbone.weights_sha256,
        architecture=backbone.architecture_sha256,
        preprocess=preprocess,
        precision=backbone.precision,
        device=torch.device(backbone.device).type,
        width=backbone.embedding_width,
        code=code_sha256(type(backbone)),
    )


def identity(content_sha256: str, box: tuple[int, int, int, int] | None = None) -> str:
    """What a row is found by: the picture's content, and the part of it that is looked at."""
    return content_sha256 if box is None else f"{content_sha256}@{','.join(map(str, box))}"


class Store:
    """The rows of one space.

    Raises (everywhere a shard is read):
        CorruptData: a shard is cut, altered or of another space; the message names it.
    """

    def __init__(self, root: Path, space: Space, mode: Mode = Mode.USE) -> None:
        self.space, self.mode = space, mode
        self.folder = root / "embeddings" / space.key[:KEY_DIGITS]
        self._places: dict[str, tuple[Path, int]] = {}
        self._read: set[Path] = set()
        self._kept: dict[str, Tensor] = {}
        if mode in (Mode.USE, Mode.REFRESH):
            self._create()

    def _create(self) -> None:
        key = self.folder / "key.json"
        try:
            if not key.exists():
                with written_whole(key) as temporary:
                    temporary.write_text(
                        json.dumps(asdict(self.space), indent=2, sort_keys=True), encoding="utf-8"
                    )
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with suppress(OSError):  # another user's space can be read all the same
            os.utime(key)

    def missing(self, identities: Sequence[str]) -> list[str]:
        """Those without a row, each once, in order; looks again for shards of other processes."""
        if lacked := self._lacked(identities):
            self._look()
            lacked = self._lacked(lacked)
        return lacked

    def _lacked(self, identities: Sequence[str]) -> list[str]:
        distinct = dict.fromkeys(identities)
        return [name for name in distinct if name not in self._places and name not in self._kept]

    def count_imported(self, identities: Sequence[str]) -> int:
        """How many of these rows came from another machine's archive."""
        imported = read_imported(self.folder)
        places = (self._places.get(name) for name in identities)
        return sum(place is not None and place[0].stem in imported for place in places)

    def forget(self, identities: Sequence[str]) -> None:
        """Removes the shards that hold any of these, so that they are computed anew."""
        self._look()
        for path in {self._places[name][0] for name in identities if name in self._places}:
            path.unlink(missing_ok=True)
            self._read.discard(path)
            self._places = {n: p for n, p in self._places.items() if p[0] != path}

    def forget_all(self) -> None:
        """Removes every shard of the space."""
        self._look()
        self.forget(list(self._places))

    def rows(self, identities: Sequence[str]) -> Tensor:
        """(len(identities), C) float32."""
        wanted: dict[Path, list[str]] = {}
        for name in dict.fromkeys(identities):
            if name not in self._kept:
                wanted.setdefault(self._places[name][0], []).append(name)
        found = {name: self._kept[name] for name in identities if name in self._kept}
        for path, names in wanted.items():
            rows = [self._places[name][1] for name in names]
            values = read_rows(path, min(rows), max(rows) + 1)
            if not values.isfinite().all():
                raise _damaged(path, "it holds numbers that are not finite")
            found.update((n, values[row - min(rows)]) for n, row in zip(names, rows, strict=True))
        return torch.stack([found[name] for name in identities])

    def add(self, identities: Sequence[str], values: Tensor) -> None:
        """Stores (len(identities), C) float32 rows as one shard, or keeps them for this run."""
        if self.mode is Mode.READ_ONLY:
            self._kept.update(zip(identities, values, strict=True))
            return
        header = {"space": self.space.canonical, "identities": list(identities)}
        content = save(
            {"values": values.contiguous()},
            {"cirbench": json.dumps(header, sort_keys=True, separators=(",", ":"))},
        )
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:KEY_DIGITS]}.safetensors"
        try:
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._index(path, identities)

    @contextmanager
    def working_on(
        self, identities: Sequence[str], say: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Keeps other processes from computing the same rows; a dead holder's lock is free.

        Args:
            say: told when another process has been waited for, for some seconds.
        """
        digest = hashlib.sha256("\n".join(identities).encode()).hexdigest()[:16]
        lock = FileLock(self.folder / f".{digest}.lock", fallback_to_soft=False)
        with ExitStack() as held:
            if self.mode is not Mode.READ_ONLY:
                with suppress(OSError, NotImplementedError):
                    held.enter_context(_acquire(lock, say))
            yield

    def _look(self) -> None:
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path not in self._read:
                try:
                    self._index(path, check_shard(path, self.space))
                except CorruptData:
                    if self.mode is not Mode.REFRESH:
                        raise
                    remove_damaged(path)

    def _index(self, path: Path, identities: Sequence[str]) -> None:
        self._read.add(path)
        for row, name in enumerate(identities):
            self._places.setdefault(name, (path, row))


def _acquire(
    lock: BaseFileLock, say: Callable[[str], None] | None
) -> AbstractContextManager[object]:
    try:
        return lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        if say:
            say(f"waiting for another process that computes the same rows ({lock.lock_file})")
        return lock.acquire()


def check_shard(path: Path, space: Space) -> list[str]:
    """The identities in a shard, once its bytes, its space and its shape have been found right."""
    header, width = _whole_header(path)
    if header["space"] != space.canonical:
        raise _damaged(path, f"it is of another space: {_difference(header['space'], space)}")
    if space.width not in (None, width):
        raise _damaged(path, f"its rows must have {space.width} numbers, and have {width}")
    identities: list[str] = header["identities"]
    return identities


def check_place(path: Path) -> None:
    """That a shard is whole, lies in the folder of its own space, and holds finite numbers."""
    header, width = _whole_header(path)
    space = json.loads(header["space"])
    if (key := key_of(space)[:KEY_DIGITS]) != path.parent.name:
        raise _damaged(path, f"it is of another space ({key})")
    if space.get("width") not in (None, width):
        raise _damaged(path, f"its rows must have {space['width']} numbers, and have {width}")
    if not read_rows(path, 0, len(header["identities"])).isfinite().all():
        raise _damaged(path, "it holds numbers that are not finite")


def _whole_header(path: Path) -> tuple[dict[str, Any], int]:
    """A shard's header and the width of its rows."""
    try:
        sha256 = sha256_of_file(path)
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if sha256[:KEY_DIGITS] != path.stem:
        raise _damaged(path, "it was cut or altered")
    header = read_header(path)
    with _opened(path) as file:
        values = file.get_slice("values")
        shape, kind = values.get_shape(), values.get_dtype()
    if kind != "F32" or len(shape) != 2 or shape[0] != len(header["identities"]):
        raise _damaged(
            path, f"{len(header['identities'])} names go with numbers of shape {shape} ({kind})"
        )
    return header, int(shape[1])


def remove_damaged(path: Path) -> None:
    """Removes a damaged file of a space, whatever it is; with its key.json, the whole space."""
    path = path.parent if path.name == "key.json" else path
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_imported(folder: Path) -> set[str]:
    """The shards of a space, without their endings, that came from another machine."""
    path = folder / IMPORTED
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()


def read_header(path: Path) -> dict[str, Any]:
    """What a shard says of itself: its space, and the identities of its rows."""
    with _opened(path) as file:
        header = json.loads((file.metadata() or {})["cirbench"])
        if not (isinstance(header["space"], str) and isinstance(header["identities"], list)):
            raise TypeError("its header is not one of ours")
        found: dict[str, Any] = header
        return found


def read_rows(path: Path, first: int, end: int) -> Tensor:
    """(end - first, C) float32; the rest of the file is not read."""
    with _opened(path) as file:
        rows: Tensor = file.get_slice("values")[first:end]
        return rows


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> CorruptData:
    return CorruptData(
        f"the shard of embeddings {path} can't be used: {why}; bench cache verify --repair removes "
        f"all such shards, and their rows are computed again"
    )


def _difference(found: str, space: Space) -> str:
    theirs, ours = json.loads(found), json.loads(space.canonical)
    return ", ".join(
        f"{name} {theirs.get(name)}, not {value}"
        for name, value in ours.items()
        if theirs.get(name) != value
    )
