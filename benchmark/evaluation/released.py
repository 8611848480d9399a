"""Released weights by name: which there are, where they lie here, and how they get here.

`methods/weights/released.csv` has a row for each published file that a method reads. A file of
Hugging Face's hub goes where its library keeps it (HF_HOME), any other below CIRBENCH_CACHE. There
a person may put one too, under any name: it is told by its sha256, or where that is not known by
the shapes of its weights. A sha256 that is not in the table is written down when a file is first
used, and every later one is held to it.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.method import Checkpoint
from cirbench.benchmark.api.weights import ReleasedWeights
from cirbench.benchmark.data.downloads import PART, fetch_part
from cirbench.benchmark.evaluation.outline import read_outline
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole
from cirbench.benchmark.runtime.kept import find_cache_root
from cirbench.benchmark.runtime.parsing import read_text
from cirbench.benchmark.runtime.progress import Reporter

RELEASED = "released"
"""What a person writes for "the one that is known"."""


@cache
def read_released() -> tuple[ReleasedWeights, ...]:
    """Read the table; of several for one method and backbone the better comes first."""
    table = Path(str(files("cirbench.methods") / "weights" / "released.csv"))
    with table.open(encoding="utf-8", newline="") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def _parse(row: Mapping[str, str]) -> ReleasedWeights:
    words = row["shapes"].split()
    shapes = {
        name: tuple(map(int, sizes.split("x")))
        for name, sizes in zip(words[::2], words[1::2], strict=True)
    }
    parsed: dict[str, Any] = {
        **row,
        "backbones": tuple(row["backbones"].split()),
        "size": int(row["size"]) if row["size"] else None,
        "shapes": shapes,
    }
    return ReleasedWeights(**parsed)


def find_folder(method: str) -> Path:
    """Where the files of a method are put that the hub does not have."""
    return find_cache_root() / "weights" / method


def find_file(row: ReleasedWeights) -> Path | None:
    """Where it lies on this machine; None where it does not.

    A file that has its name is taken for it, and `check_file` says whether it is.
    """
    named = find_folder(row.method) / row.file
    if named.is_file():
        return named
    return _find_in_hub_cache(row) or _find_by_content(row)


def tell_places(row: ReleasedWeights) -> list[str]:
    """Tell a person where it is looked for on this machine."""
    places = [str(find_folder(row.method))]
    if row.hub:
        from huggingface_hub.constants import HF_HUB_CACHE

        places.append(str(Path(HF_HUB_CACHE, f"models--{row.hub.replace('/', '--')}")))
    return places


def _find_in_hub_cache(row: ReleasedWeights) -> Path | None:
    if not row.hub:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(row.hub, row.file)
    return Path(found) if isinstance(found, str) else None


def _find_by_content(row: ReleasedWeights) -> Path | None:
    """Find it under another name: by its sha256 where that is known, else by its weights."""
    known, taken = find_sha256(row), {other.file for other in read_released()}
    for path in sorted(find_folder(row.method).glob("[!.]*")):
        if path.name in taken or path.suffix == PART or not path.is_file():
            continue
        if known and row.size in (None, path.stat().st_size) and sha256_of_file(path) == known:
            return path
        if not known and _tell(row.method, path) == row:
            return path
    return None


def _tell(method: str, path: Path) -> ReleasedWeights | None:
    """Tell whose weights a file has: of the rows that it fits the one with most demands, if one."""
    outline = read_outline(path)
    fitting = [r for r in read_released() if r.method == method and not _find_misfits(r, outline)]
    most = max((len(row.shapes) for row in fitting), default=0)
    told = [row for row in fitting if len(row.shapes) == most]
    return told[0] if len(told) == 1 else None


def _find_misfits(
    row: ReleasedWeights, outline: Mapping[str, tuple[int, ...]]
) -> dict[str, list[tuple[int, ...]]]:
    """Weights of the row that a file lacks, each with the shapes that it has under that name."""
    found = {
        wanted: [sizes for name, sizes in outline.items() if f".{name}".endswith(f".{wanted}")]
        for wanted in row.shapes
    }
    return {name: shapes for name, shapes in found.items() if row.shapes[name] not in shapes}


def fetch_released(row: ReleasedWeights, reporter: Reporter | None) -> Path:
    """Find it, or fetch it, and check it.

    Args:
        reporter: None where nothing may be fetched that is not here.

    Raises:
        MissingData: it is not here and cannot be fetched; says how a person gets it.
        CorruptData: it is not the published file; what was just fetched is removed.
    """
    if path := find_file(row):
        check_file(row, path)
        return path
    if reporter is None:
        raise explain_missing(row, "nothing is fetched here, but by bench run")
    if why := tell_obstacle(row):
        raise explain_missing(row, why)
    reporter.say(f"{row.method}: fetching {row.file} from {row.hub or row.url}")
    path = _fetch_from_hub(row, reporter) if row.hub else _fetch_by_url(row, reporter)
    try:
        check_file(row, path)
    except CorruptData:
        path.resolve().unlink()  # the hub's library keeps a link to it
        path.unlink(missing_ok=True)
        raise
    return path


def tell_obstacle(row: ReleasedWeights) -> str:
    """Tell why there is no use in trying to fetch it; empty where there may be."""
    from huggingface_hub import is_offline_mode

    if not (row.hub or row.url):
        return "only a person can fetch it"
    return "HF_HUB_OFFLINE is set" if is_offline_mode() else ""


def _fetch_from_hub(row: ReleasedWeights, reporter: Reporter) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils.tqdm import tqdm

    with _silence_hub():
        try:
            # asks once, where the download would try for half a minute
            size = get_hf_file_metadata(hf_hub_url(row.hub, row.file)).size
            with reporter.stage(row.file, size or 0) as stage:

                class Bar(tqdm):
                    def __init__(self, *args: Any, **settings: Any) -> None:
                        super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]  # tqdm is untyped

                    def update(self, n: float | None = 1) -> None:
                        stage.advance(int(n or 0))

                return Path(hf_hub_download(row.hub, row.file, tqdm_class=Bar))
        except Exception as error:  # its own errors, its HTTP library's, and the system's
            why = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
            raise explain_missing(row, f"{row.hub} cannot be fetched from ({why})") from error


_LONGEST = 200


def is_released_name(path: Path) -> bool:
    """Whether a person who writes this for a file may mean released weights."""
    return str(path) in {RELEASED, *(row.file for row in read_released())}


@contextmanager
def _silence_hub() -> Iterator[None]:
    """Keep what the hub's library says of each try off the terminal."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    level = get_verbosity()
    set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        set_verbosity(level)


def _fetch_by_url(row: ReleasedWeights, reporter: Reporter) -> Path:
    from filelock import FileLock

    path = find_folder(row.method) / row.file
    part = path.with_name(f"{row.file}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{row.file}.lock")):  # two processes would add to one part
        if not path.is_file():
            try:
                fetch_part(row.url, part, reporter)
            except MissingData as error:
                raise explain_missing(row, str(error)) from error
            part.replace(path)
    return path


def explain_missing(row: ReleasedWeights, why: str) -> MissingData:
    """The error of released weights that are not here, with what a person can do."""
    return MissingData(f"{row.method}: {row.file} is not here, and {why}; {tell_how(row)}")


def tell_how(row: ReleasedWeights) -> str:
    """Tell a person, in one line, what to fetch from where, and where to put it."""
    same = (row.method, row.backbones, row.trained_on)
    places = [
        f"{other.file} from {other.page}"
        for other in read_released()
        if (other.method, other.backbones, other.trained_on) == same
    ]
    return f"fetch {' or '.join(places)} and put it, under any name, into {find_folder(row.method)}"


def check_file(row: ReleasedWeights, path: Path) -> None:
    """Hold a file to what is known of the published one; write down what was not known.

    Raises:
        CorruptData: it has another sha256, or other weights.
    """
    sha256, known = sha256_of_file(path), find_sha256(row)
    if known and sha256 != known:
        origin = "as published" if row.sha256 else f"as when it was first used ({_find_seen(row)})"
        raise CorruptData(
            f"{path} must be {row.file} with the sha256 {known}, {origin}, got {sha256}; remove it "
            f"and fetch it again"
        )
    if known:
        return
    if misfits := _find_misfits(row, read_outline(path)):
        name, shapes = next(iter(misfits.items()))
        raise CorruptData(
            f"{path} must be {row.file} for {row.backbones[0]}, with {name} of shape "
            f"{row.shapes[name]}, got {' or '.join(map(str, shapes)) or 'none of that name'}; "
            f"{tell_how(row)}"
        )
    with write_whole(_find_seen(row)) as temporary:
        temporary.write_text(f"{sha256}  {row.file}\n", encoding="utf-8")


def find_sha256(row: ReleasedWeights) -> str:
    """The sha256 in the table, else of the file that was first used here; empty before that."""
    if row.sha256 or not _find_seen(row).is_file():
        return row.sha256
    return read_text(_find_seen(row)).partition(" ")[0]


def _find_seen(row: ReleasedWeights) -> Path:
    return find_folder(row.method) / f".{row.file}.sha256"


def read_weights(source: Path | ReleasedWeights, reporter: Reporter | None) -> Checkpoint:
    """Read a file of weights, or fetch and read released ones.

    Whatever its name, a file that was released is known as that by its sha256.

    Args:
        reporter: as for `fetch_released`.

    Raises:
        MissingData, CorruptData: as `fetch_released` and `read_checkpoint`.
    """
    from cirbench.benchmark.checkpoints import read_checkpoint  # imports torch

    path = fetch_released(source, reporter) if isinstance(source, ReleasedWeights) else source
    checkpoint = read_checkpoint(path)
    for row in read_released():
        if find_sha256(row) == checkpoint.sha256:
            facts = {"trained_on": row.trained_on, "backbone": {"name": row.backbones[0]}}
            return replace(checkpoint, provenance=facts, released=row)
    return checkpoint
