"""What an answer file says of how it was made: which queries, which images, which protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import Query, TaskData
from cirbench.benchmark.data.answers import CIRR_SUBSET, AnswerFile, strip_zeros
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.records.record import Record, read_record
from cirbench.benchmark.runtime.errors import MissingData, UsageError

KS = (1, 5, 10, 50)
_NAMED = 10
_LEVEL = 0.95

Answers = Mapping[str, Sequence[str]]
"""Query id → names, best first."""


@dataclass(frozen=True, kw_only=True)
class Some:
    """How many there are, and the first ten."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Some:
        """Count names."""
        listed = list(names)
        return cls(count=len(listed), first=tuple(listed[:_NAMED]))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where the queries' own references stand among their answers.

    Attributes:
        in_gallery: answered queries whose reference is in the gallery, so that it could be listed.
        listed: so many of these list it; within: k → so many among the first k.
        median_rank: where it is listed; None where it is nowhere.
    """

    in_gallery: int
    listed: int
    within: Mapping[int, int]
    median_rank: float | None


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Two sets of answers to the same queries.

    Attributes:
        other: a file or a record.
        at: k → mean percent of the first k that both have.
        same: k → queries whose first k are the same, in the same order.
        reference: where the references stand in the other.
    """

    other: str
    queries: int
    at: Mapping[int, float]
    same: Mapping[int, int]
    reference: Reference


@dataclass(frozen=True, kw_only=True)
class Subset:
    """CIRR's answers among the members of a query's image set, held against the main file.

    Attributes:
        foreign: queries with a name that is no member, or with the reference.
        otherwise_ordered: queries whose first members are not those that the main file ranks first.
        checked: queries of which the main file lists a member at all.
    """

    file: str
    queries: int
    lengths: Mapping[int, int]
    duplicates: Some
    foreign: Some
    otherwise_ordered: Some
    checked: int


@dataclass(frozen=True, kw_only=True)
class AnswersAudit:
    """What a file of answers says of itself.

    Attributes:
        splits: split → "shared of its queries".
        missing, unknown: queries of the split without an answer, and answered ones it doesn't have.
        lengths: number of names → so many answers have it.
        duplicates, foreign: queries that list a name twice, or one that is not in the gallery.
        foreign_names: such names.
        ties: queries with two equal scores; None where the file has none.
        misnumbered: queries of a TREC run whose ranks contradict its scores.
        conclusions: sentences, with the numbers that they rest on.
    """

    file: str
    sha256: str
    kind: str
    task: str
    split: str
    splits: Mapping[str, str]
    queries: int
    answered: int
    missing: Some
    unknown: Some
    lengths: Mapping[int, int]
    duplicates: Some
    foreign: Some
    foreign_names: Some
    reference: Reference
    ties: Some | None
    misnumbered: Some | None
    subset: Subset | None
    overlaps: tuple[Overlap, ...]
    conclusions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split of a task, which gives names of queries and images its own spelling."""

    name: str
    data: TaskData

    @cached_property
    def queries(self) -> Mapping[str, Query]:
        return {query.id: query for query in self.data.queries}

    @cached_property
    def gallery(self) -> Mapping[str, str]:
        """A name, as it is and without leading zeros → the name."""
        names = [ref.id for ref in self.data.gallery]
        return {**{strip_zeros(name): name for name in names}, **{name: name for name in names}}

    def spell(self, answers: Answers) -> Answers:
        """Spell ids of queries and names of images as the task does, where it has them."""
        plain = {strip_zeros(query): query for query in self.queries}
        return {
            query if query in self.queries else plain.get(strip_zeros(query), query): [
                self.gallery.get(name, self.gallery.get(strip_zeros(name), name)) for name in names
            ]
            for query, names in answers.items()
        }

    def rate(self, answers: Answers) -> tuple[float, float]:
        """Rate how well answers fit: the share of queries in common, then that of known names."""
        spelt = self.spell(answers)
        listed = {name for names in spelt.values() for name in names}
        known = sum(name in self.gallery for name in listed)
        shared = spelt.keys() & self.queries.keys()
        return len(shared) / len(spelt.keys() | self.queries.keys()), known / max(1, len(listed))

    def count_shared(self, answers: Answers) -> int:
        """Count the queries that are answered."""
        return len(self.spell(answers).keys() & self.queries.keys())


def find_split(
    task: Task, found: AnswerFile, *, split: str | None, protocol: str | None, root: Path | None
) -> tuple[Split, dict[str, str]]:
    """Find the split whose queries a file answers, and say of each how many it answers.

    Args:
        split: the one that it is said to be of; None leaves it to the file.
        protocol: whose queries and gallery; None is the task's first.

    Raises:
        UsageError: no such split or protocol, or the file is of another split or of none.
        MissingData: the data of no split is there.
    """
    if split is not None and split not in task.splits:
        raise UsageError(f"{task.name} has the splits {', '.join(task.splits)}, got {split!r}")
    if protocol is not None and protocol not in task.protocols:
        known = ", ".join(task.protocols)
        raise UsageError(f"{task.name} has the protocols {known}, got {protocol!r}")
    rules = task.protocols[protocol or next(iter(task.protocols))]
    splits, absent = [], None
    for name in task.splits:
        try:
            splits.append(
                Split(name=name, data=task.load(protocol=rules, split=name, data_root=root))
            )
        except MissingData as error:
            absent = error
    if absent and (not splits or split not in (None, *(one.name for one in splits))):
        raise absent
    said = {
        one.name: f"{one.count_shared(found.answers):,} of its {len(one.queries):,} queries"
        for one in splits
    }
    best = max(splits, key=lambda one: one.rate(found.answers))
    told = "; ".join(f"{name}: {words}" for name, words in said.items())
    if not best.count_shared(found.answers):
        raise UsageError(f"{found.path} must answer queries of {task.name}, and it answers {told}")
    if split not in (None, best.name):
        raise UsageError(
            f"{found.path} is a file for the split {best.name} of {task.name}, not for {split}: it "
            f"answers {told}"
        )
    if len(best.queries) < len(best.data.queries):
        raise UsageError(f"{task.name}: query ids must be unique for a file to name them")
    return best, said


def audit_answers(
    found: AnswerFile,
    task: Task,
    split: Split,
    splits: Mapping[str, str],
    *,
    subset: AnswerFile | None = None,
    others: Sequence[AnswerFile] = (),
    records: Sequence[Record] = (),
) -> AnswersAudit:
    """Audit a file against the split that it answers, its subset file, other files and records.

    Raises:
        UsageError: a subset file is given as the main one, or the other way round.
        CorruptData: a record's per-query data is missing or altered.
    """
    if found.kind == CIRR_SUBSET or (subset and subset.kind != CIRR_SUBSET):
        odd = found if found.kind == CIRR_SUBSET else subset
        raise UsageError(
            f"{odd and odd.path} is a file of the kind {odd and odd.kind!r}; the main file comes "
            f"first, and CIRR's recall_subset file behind --subset"
        )
    answers = split.spell(found.answers)
    known = {query: names for query, names in answers.items() if query in split.queries}
    foreign = {
        query: [name for name in names if name not in split.gallery]
        for query, names in known.items()
    }
    reference = find_references(split, known)
    overlaps = [
        compare_answers(str(other.path), split, known, split.spell(other.answers))
        for other in others
    ]
    overlaps += [
        compare_answers(record.path.name, split, known, list_answers(record)) for record in records
    ]
    return AnswersAudit(
        file=str(found.path),
        sha256=found.sha256,
        kind=found.kind,
        task=task.name,
        split=split.name,
        splits=splits,
        queries=len(split.queries),
        answered=len(known),
        missing=Some.of(query for query in split.queries if query not in known),
        unknown=Some.of(query for query in answers if query not in split.queries),
        lengths=_count_lengths(known),
        duplicates=_find_duplicates(known),
        foreign=Some.of(query for query, names in foreign.items() if names),
        foreign_names=Some.of(dict.fromkeys(name for own in foreign.values() for name in own)),
        reference=reference,
        ties=_find_ties(found) if found.scores else None,
        misnumbered=Some.of(found.misnumbered) if found.scores else None,
        subset=_audit_subset(subset, split, known) if subset else None,
        overlaps=tuple(overlaps),
        conclusions=tuple(_conclude(task, reference, overlaps)),
    )


def _count_lengths(answers: Answers) -> dict[int, int]:
    return dict(sorted(Counter(map(len, answers.values())).items()))


def _find_duplicates(answers: Answers) -> Some:
    return Some.of(query for query, names in answers.items() if len(set(names)) < len(names))


def _find_ties(found: AnswerFile) -> Some:
    return Some.of(query for query, own in found.scores.items() if len(set(own)) < len(own))


def find_references(split: Split, answers: Answers) -> Reference:
    """Find where the references of the answered queries stand."""
    asked = {query: split.queries[query].reference.id for query in answers}
    possible = {query: name for query, name in asked.items() if name in split.gallery}
    ranks = [
        answers[query].index(name) + 1 for query, name in possible.items() if name in answers[query]
    ]
    return Reference(
        in_gallery=len(possible),
        listed=len(ranks),
        within={k: sum(rank <= k for rank in ranks) for k in KS},
        median_rank=float(median(ranks)) if ranks else None,
    )


def compare_answers(name: str, split: Split, ours: Answers, theirs: Answers) -> Overlap:
    """Compare two sets of answers, in the queries that both answer."""
    shared = [query for query in ours if query in theirs]
    longest = max((min(len(ours[q]), len(theirs[q])) for q in shared), default=0)
    ks = [k for k in KS if k <= longest]
    return Overlap(
        other=name,
        queries=len(shared),
        at={
            k: 100 * fmean(len(set(ours[q][:k]) & set(theirs[q][:k])) / k for q in shared)
            for k in ks
        },
        same={k: sum(list(ours[q][:k]) == list(theirs[q][:k]) for q in shared) for k in ks},
        reference=find_references(split, {q: n for q, n in theirs.items() if q in split.queries}),
    )


def list_answers(record: Record) -> Answers:
    """List what a record ranks first for each of its queries.

    Raises:
        CorruptData: its per-query data is missing or altered.
    """
    found = record.read_per_query()
    names = found.gallery.tolist()
    return {
        str(query): [names[row] for row in rows if row >= 0]
        for query, rows in zip(found.query, found.top.tolist(), strict=True)
    }


def find_split_records(root: Path, task: str, split: str) -> list[Record]:
    """Find the whole records of a split below a results folder, those without metrics too.

    Raises:
        CorruptData: a record is damaged.
    """
    found = [read_record(path) for path in sorted((root / slug(task)).glob("[!.]*.json"))]
    return [one for one in found if one.cell.split == split and not one.run.partial]


def _audit_subset(found: AnswerFile, split: Split, main: Answers) -> Subset:
    answers = split.spell(found.answers)
    if not (known := {query: own for query, own in answers.items() if query in split.queries}):
        raise UsageError(f"{found.path} must answer queries of the split {split.name}")
    gallery = [ref.id for ref in split.data.gallery]
    members = {query: {gallery[row] for row in split.queries[query].members} for query in known}
    # members in the main file stand before all others of their query
    first = {q: [name for name in main.get(q, ()) if name in members[q]] for q in known}
    return Subset(
        file=str(found.path),
        queries=len(known),
        lengths=_count_lengths(known),
        duplicates=_find_duplicates(known),
        foreign=Some.of(q for q, own in known.items() if not set(own) <= members[q]),
        otherwise_ordered=Some.of(q for q, own in known.items() if not _agree(list(own), first[q])),
        checked=sum(bool(own) for own in first.values()),
    )


def _agree(ours: list[str], theirs: list[str]) -> bool:
    """Whether two lists begin alike, as far as both go."""
    both = min(len(ours), len(theirs))
    return ours[:both] == theirs[:both]


def _conclude(task: Task, found: Reference, overlaps: Sequence[Overlap]) -> Iterator[str]:
    """Say what the references' ranks mean for the protocol."""
    if not found.in_gallery:
        yield "No query's reference is in the gallery: the answers can't say whether it is removed."
        return
    removing = [name for name, rules in task.protocols.items() if rules.reference_removed]
    keeping = [name for name in task.protocols if name not in removing]
    shares = f"{found.listed:,} of {found.in_gallery:,} answers"
    if found.listed:
        percent = {k: 100 * count / found.in_gallery for k, count in found.within.items()}
        yield (
            f"The reference was ranked, not removed: {shares} list it "
            f"({100 * found.listed / found.in_gallery:.1f} %), {percent[1]:.1f} % at the first "
            f"rank and {percent[5]:.1f} % among the first 5. "
            f"{_name_protocols(task, keeping)} it; a number of this file is not one of a protocol "
            f"that removes it ({', '.join(removing) or 'none'} here)."
        )
    else:
        most = 100 * (1 - (1 - _LEVEL) ** (1 / found.in_gallery))
        yield (
            f"The reference was removed, or always ranked below the answers: {shares} list it (at "
            f"most {most:.2g} % of such answers would, at 95 %). A number of this file is not one "
            f"of a protocol that keeps it ({', '.join(keeping) or 'none'} here), where it takes a "
            f"rank."
        )
    for other in overlaps:
        if (other.reference.listed > 0) != (found.listed > 0):
            yield (
                f"{other.other} is of another kind: it lists the reference in "
                f"{other.reference.listed:,} of {other.reference.in_gallery:,} answers."
            )


def _name_protocols(task: Task, names: Sequence[str]) -> str:
    if not names:
        return f"No protocol of {task.name} here keeps"
    return (
        f"Of {task.name}'s protocols here {', '.join(names)} keep{'s' if len(names) == 1 else ''}"
    )
