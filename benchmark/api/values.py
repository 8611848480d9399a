"""The values that cross the seams. Nothing here imports torch, so that `bench ls` stays quick."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cirbench.benchmark.api.protocol import EvaluationProtocol


HIGHEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over n queries and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """An object's box in pixels, with what is around it: `images.boxes.cut` makes a square of both.

    Attributes:
        left, upper, width, height: of the object, as annotated; no number has to be whole.
    """

    left: float
    upper: float
    width: float
    height: float


Box = tuple[int, int, int, int] | Surroundings
"""The part of a picture that is looked at: see `ImageRef`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """A picture that is read only when it is needed.

    Attributes:
        id: names the picture; within a task, one id is one picture.
        read: gives the encoded file. Called from worker threads.
        box: left, upper, right and lower pixel of the part that is looked at, which is stretched
            to the tower's square whatever its shape; or an object's `Surroundings`, of which a
            square is preprocessed as the protocol says; None is the whole picture, as it says.
        path: its file, where it has one of its own; its content's hash can then be remembered.
        title: what a person calls it, where its id does not say so.

    Examples:
        >>> from pathlib import Path
        >>> import cirbench
        >>> path = Path("photos/dog.jpg")
        >>> cirbench.ImageRef(id="dog", read=path.read_bytes, path=path).id
        'dog'
    """

    id: str
    read: Callable[[], bytes] = field(compare=False, repr=False)
    path: Path | None = None
    box: Box | None = None
    title: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A reference picture, what to change about it, and which gallery rows answer it.

    Attributes:
        positives: gallery rows that count as found; may be empty, the query still counts.
        target: the positive that the text was written for, for `target R@k`, where there are more.
        group: the part of the task it is averaged in (a domain, a category).
        aspects: further groups that it counts in as well, such as what its text is about; these
            may overlap.
        fields: what the protocol's templates speak of, such as a caption.
        removed: the gallery row that is left out of this query's ranking, if any.
        members: gallery rows among which alone the positives are ranked a second time, for
            subset metrics (CIRR's image sets, without the reference).
        candidates: gallery rows that alone are ranked, where each query has a gallery of its own;
            equal scores go by their order here. Such a query has no `removed` and no `members`.
        grades: gallery row → how well it answers, for graded metrics: 1 wholly, below 0 not at
            all; a row that is not named has 0.

    Examples:
        >>> import cirbench
        >>> dog = cirbench.ImageRef(id="dog", read=bytes)
        >>> cirbench.Query(id="1", reference=dog, positives=(3,), fields={"style": "origami"}).group
        'all'
    """

    id: str
    reference: ImageRef
    positives: tuple[int, ...]
    target: int | None = None
    group: str = "all"
    aspects: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    removed: int | None = None
    members: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    grades: Mapping[int, float] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...]:
        """Every gallery row that it speaks of, but for the removed one."""
        return (*self.positives, *self.members, *self.candidates, *self.grades)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A loaded task.

    Attributes:
        gallery: in its fixed order, which breaks ties. One picture may stand in it more than once.
        annotations: annotation file (or what stands for one) → sha256.
        spans: group → the rows of the gallery that its queries are ranked against; a group that
            is not named is ranked against all (Fashion-IQ has a gallery a category).
        labelled: False where only a server knows the positives: then nothing is scored, and
            `Task.submission` says what to send it.
        missing: id of a picture that the annotations name and that is not there → where it was
            looked for. A task leaves it in gallery and queries; the harness stops, or drops it
            and calls the record partial.
        remarks: what a reader of the numbers should know of the data, a sentence each.

    Examples:
        >>> import cirbench
        >>> dog, cat = (cirbench.ImageRef(id=name, read=bytes) for name in ("dog", "cat"))
        >>> query = cirbench.Query(id="1", reference=dog, positives=(1,))
        >>> data = cirbench.TaskData(gallery=(dog, cat), queries=(query,), annotations={})
        >>> list(data.pictures)
        ['dog', 'cat']
    """

    gallery: tuple[ImageRef, ...]
    queries: tuple[Query, ...]
    annotations: Mapping[str, str]
    spans: Mapping[str, range] = field(default_factory=dict)
    labelled: bool = True
    missing: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def annotations_sha256(self) -> str:
        """One hash over all annotations."""
        lines = (f"{name} {sha256}\n" for name, sha256 in sorted(self.annotations.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def pictures(self) -> Mapping[str, ImageRef]:
        """Each distinct picture of gallery and queries once, by id, in order."""
        refs = (*self.gallery, *(query.reference for query in self.queries))
        return {ref.id: ref for ref in refs}

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in the order in which they first occur, then the aspects."""
        return tuple(self.query_counts)

    @property
    def query_counts(self) -> Mapping[str, int]:
        """Group → how many queries it has."""
        groups = Counter(query.group for query in self.queries)
        return groups + Counter(aspect for query in self.queries for aspect in query.aspects)


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """What supervised training sees: a reference, what to change, and the target.

    Attributes:
        captions: wordings of one and the same change; training draws one at each step.
        group: the part of the task it is of.
        fields: what the protocols' templates speak of, as a query's, once for each order in which
            its captions may be asked; of these a method makes the texts that it is evaluated with.
        equals: other pictures that answer as well as the target.
    """

    reference: ImageRef
    target: ImageRef
    captions: tuple[str, ...]
    group: str = "all"
    fields: tuple[Mapping[str, str], ...] = ()
    equals: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the best of several trained models is chosen.

    Attributes:
        metrics: names whose plain mean, over groups first, is the score.
    """

    split: str
    protocol: EvaluationProtocol
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Released:
    """What the annotations that everybody uses come to, so that others can be told from them.

    Attributes:
        queries: group → how many are annotated, where that is known; a protocol may ask each twice.
        gallery: protocol name → how many images are ranked, where that is known.
        annotations_sha256: as `TaskData.annotations_sha256`; None where it is not known of all.
        files: annotation file → its sha256, where only some are known.
        others: what else everybody uses, where there is more than one.
    """

    queries: Mapping[str, int]
    gallery: Mapping[str, int] = field(default_factory=dict)
    annotations_sha256: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Released, ...] = ()

    def choose(self, data: TaskData, protocol: EvaluationProtocol) -> Released:
        """Which of them these annotations are; the first where they are none."""
        either = (one for one in (self, *self.others) if one._is(data, protocol))
        return next(either, self)

    def matches(self, data: TaskData, protocol: EvaluationProtocol) -> bool:
        """Whether these are released annotations, as far as can be told."""
        return self.choose(data, protocol)._is(data, protocol)

    def count_queries(self, protocol: EvaluationProtocol) -> Mapping[str, int]:
        """Group → how many queries a protocol makes of the annotations."""
        return {group: protocol.times_asked * count for group, count in self.queries.items()}

    def _is(self, data: TaskData, protocol: EvaluationProtocol) -> bool:
        return (
            self.count_queries(protocol).items() <= data.query_counts.items()
            and self.gallery.get(protocol.name) in (None, len(data.gallery))
            and self.annotations_sha256 in (None, data.annotations_sha256)
            and self.files.items() <= data.annotations.items()
        )


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Pictures of a data set beyond those of one split.

    Attributes:
        missing: names that the annotations hold and no file answers.
        expected: how many names the released annotations hold.
        changed: names whose files are not what they were when they were fetched.
    """

    name: str
    found: int
    missing: tuple[str, ...]
    expected: int
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MadeData:
    """Data that are made up, in the layout of a task's real ones.

    Attributes:
        files: path below the data root → text.
        pictures: path below the data root → what draws it and gives the encoded file. Called from
            worker threads.
        credit: what the licences of what is drawn ask to be said.
    """

    files: Mapping[str, str]
    pictures: Mapping[str, Callable[[], bytes]]
    credit: str


class Mode(StrEnum):
    """What a run does with the store of embeddings."""

    USE = "use"
    REFRESH = "refresh"
    READ_ONLY = "read-only"
    OFF = "off"
