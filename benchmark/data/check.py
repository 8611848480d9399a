"""Checks of a data set: counts against the released numbers, and every picture's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import Collection, ImageRef, TaskData
from cirbench.benchmark.data.made import is_made
from cirbench.benchmark.images.boxes import cut
from cirbench.benchmark.images.reading import EncodedPicture, load_encoded, prefetch
from cirbench.benchmark.images.vectors import VECTOR_ENDING, decode_vector
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter, Stage


@dataclass(frozen=True, kw_only=True)
class Count:
    """A number found, and the released one where it is known."""

    name: str
    found: int
    expected: int | None

    @property
    def agrees(self) -> bool | None:
        return None if self.expected is None else self.found == self.expected


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """The findings about one split of a task.

    Attributes:
        error: why the split can't be loaded at all; the rest is then empty.
        shipped: whether the task reads nothing, since its data come with it.
        made: whether the data are made up.
        missing: picture → where it was looked for.
        unreadable: picture → what is wrong with it; only a deep check finds any.
    """

    split: str
    error: str | None = None
    exit_code: int = 0
    counts: tuple[Count, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    released: bool = False
    shipped: bool = False
    made: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def check_split(
    task: Task, split: str, data_root: Path | None, *, deep: bool, reporter: Reporter
) -> SplitCheck:
    """Load a split under the task's first protocol and look at every picture's file.

    Args:
        deep: decodes every picture, too.
    """
    protocol = next(iter(task.protocols.values()))
    try:
        data = task.load(protocol=protocol, split=split, data_root=data_root)
    except CirbenchError as error:
        return SplitCheck(split=split, error=str(error), exit_code=error.exit_code)
    unreadable: Mapping[str, str] = {}
    if deep:
        with reporter.stage(f"{split}: decoding", len(data.pictures)) as stage:
            unreadable = find_unreadable(data, stage)
    expected = task.released.get(split)
    made = is_made(data_root, task.places)
    return SplitCheck(
        split=split,
        exit_code=choose_exit_code(data.missing, unreadable),
        counts=tuple(_count(task, split, data)),
        annotations=data.annotations,
        released=bool(expected and expected.matches(data, protocol) and not made),
        shipped=not task.places,
        made=made,
        missing=data.missing,
        unreadable=unreadable,
        remarks=data.remarks,
    )


def choose_exit_code(missing: Sized, damaged: Sized) -> int:
    """The documented exit code for pictures that are not there, or not what they should be."""
    if damaged:
        return CorruptData.exit_code
    return MissingData.exit_code if missing else 0


def _count(task: Task, split: str, data: TaskData) -> Sequence[Count]:
    protocol = next(iter(task.protocols.values()))
    released = task.released.get(split)
    expected = released.choose(data, protocol) if released else None
    queries = expected.count_queries(protocol) if expected else {}
    counts = [
        Count(
            name="queries" if group == "all" else f"queries of {group}",
            found=found,
            expected=queries.get(group),
        )
        for group, found in data.query_counts.items()
    ]
    gallery = expected.gallery.get(protocol.name) if expected else None
    pictures = len(data.pictures)
    return [
        *counts,
        Count(name="gallery", found=len(data.gallery), expected=gallery),
        Count(name="pictures there", found=pictures - len(data.missing), expected=pictures),
    ]


def count_collection(collection: Collection) -> Count:
    """A collection as a count."""
    return Count(name=collection.name, found=collection.found, expected=collection.expected)


def find_unreadable(data: TaskData, stage: Stage, workers: int = 2) -> dict[str, str]:
    """Decode every picture that is there: id → what is wrong with it."""
    refs = [ref for name, ref in data.pictures.items() if name not in data.missing]
    jobs = (partial(_find_fault, ref, row) for row, ref in enumerate(refs))
    faults: dict[str, str] = {}
    for ref, fault in zip(refs, prefetch(jobs, workers=workers, ahead=64), strict=True):
        if fault:
            faults[ref.id] = fault
        stage.advance(1)
    return faults


def _find_fault(ref: ImageRef, row: int) -> str | None:
    try:
        load_encoded(ref, partial(_decode, ref), row)
    except (MissingData, CorruptData) as error:
        return str(error)
    return None


def _decode(ref: ImageRef, picture: EncodedPicture) -> None:
    if ref.path and ref.path.suffix == VECTOR_ENDING:
        decode_vector(picture.content)
    else:
        cut(picture.image, ref.box)
