"""A benchmark task: what it gives, and what it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cirbench.benchmark.api.values import (
    Collection,
    ImageRef,
    MadeData,
    Released,
    Selection,
    TaskData,
    Triplet,
)
from cirbench.benchmark.runtime.errors import MissingData, UsageError

if TYPE_CHECKING:
    from cirbench.benchmark.api.lessons import Lessons
    from cirbench.benchmark.api.per_query import PerQuery
    from cirbench.benchmark.api.protocol import EvaluationProtocol
    from cirbench.benchmark.runtime.progress import Reporter


class Task(ABC):
    """A benchmark task. One file in `datasets/`, one class.

    A subclass has the first four names below and a `load`.

    Examples:
        >>> import cirbench
        >>> task = cirbench.load_task("emoji")
        >>> protocol = task.protocols["emoji"]
        >>> data = task.load(protocol=protocol, split="test", data_root=None)
        >>> len(data.queries), len(data.gallery)
        (2400, 3000)
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    """What the literature calls it, where that is not its name."""
    follows: ClassVar[str] = ""
    """The task of the papers that it is like, and stands in for in their figures."""
    splits: ClassVar[tuple[str, ...]]
    """The first is the default."""
    default_backbone: ClassVar[str]
    protocols: ClassVar[Mapping[str, EvaluationProtocol]]
    """The first is the default."""
    places: ClassVar[Sequence[Place]] = ()
    """What it reads below the data root."""
    released: ClassVar[Mapping[str, Released]] = {}
    """Split → what the released annotations come to; a split that is not named is only ours."""
    downloads: ClassVar[Sequence[Download]] = ()
    """What its owners let everybody fetch."""
    how_to_get: ClassVar[str] = ""
    """Where a person gets the rest, and under which terms."""
    credit: ClassVar[str] = ""
    """What its licences ask to be said, where its pictures and texts may be passed on; empty where
    they are their owners' and a page shows them only when a person asks for it."""

    shares_pictures_with: ClassVar[Sequence[str]] = ()
    """Tasks that hold out other ones of the same pictures: a CLIP that was trained on the lessons
    of one has seen test pictures of the other, and is not run there."""

    @abstractmethod
    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        """Reads the annotations; opens no picture.

        Raises:
            MissingData: an annotation file or a folder is not under `data_root`; the message says
                where it was looked for. Single pictures that are not there go into `missing`.
            CorruptData: an annotation contradicts itself; the message names file and row.
        """

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        """Pictures that unsupervised training on this task may see.

        Raises:
            MissingData: it has none.
        """
        raise MissingData(f"{self.name} has no training images")

    def prepare(self, *, data_root: Path, seed: int, reporter: Reporter) -> Sequence[str]:
        """Makes what evaluation reads out of what was fetched; gives lines about it."""
        return ()

    def make(self, *, full: bool, seed: int) -> MadeData:
        """Makes up data in the layout of the real ones; nothing is written, no picture drawn.

        For a task whose data can't be passed on. `prepare` then sees them as it sees the real ones.

        Args:
            full: as many pictures and queries as are released, else a few.
        """
        raise NotImplementedError(f"{self.name} has no made data")

    def collections(self, *, data_root: Path | None) -> Sequence[Collection]:
        """Pictures to count besides those of the splits; for `bench data check`."""
        return ()

    selection: ClassVar[Selection | None] = None
    """For training on its triplets; None where it has none."""

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        """What supervised training on this task may see."""
        raise NotImplementedError(f"{self.name} has no triplets")

    def lessons(self, *, data_root: Path | None) -> Lessons:
        """What a tiny CLIP for this task is taught.

        Raises:
            UsageError: nothing is written for it.
            MissingData: its pictures are not there.
        """
        raise UsageError(
            f"{self.name} has no captions to train a CLIP on; choose a task that has "
            f"(bench train tiny-clip --help)"
        )

    def submission(self, data: TaskData, ranking: PerQuery) -> Mapping[str, str]:
        """File name → content of what an evaluation server takes; only asked for unlabelled data.

        Raises:
            CorruptData: the server would refuse it.
        """
        raise NotImplementedError(f"{self.name} has no unlabelled split")


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that its owners let everybody fetch.

    Attributes:
        path: where it goes, below the data root.
        checksum: "sha256:…" or "md5:…", or "git-commit:…" of a .zip that git made of a commit, and
            whose bytes are nobody's promise; None where none is known, then only counts can tell.
        makes: for an archive, the path below the data root that unpacking it beside itself makes.
    """

    url: str
    path: str
    checksum: str | None = None
    makes: str | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file or folder a task reads.

    Attributes:
        name: what it is, for a person.
        candidates: paths below the data root, or whole ones; the first that exists counts.
        optional: whether the task can do without.
    """

    name: str
    candidates: tuple[str, ...]
    optional: bool = False

    def find(self, root: Path | None) -> Path | None:
        """The first candidate that exists; without a root only those that need none."""
        known = [path for path in map(Path, self.candidates) if root or path.is_absolute()]
        return next((found for path in known if (found := (root or path) / path).exists()), None)
