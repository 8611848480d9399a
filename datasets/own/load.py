"""From rows and pictures to a gallery and queries; no picture is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.data.annotations import number_names, remark_oddities
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.parsing import read_json, read_lines
from cirbench.benchmark.runtime.paths import to_text
from cirbench.benchmark.scoring.metrics import parse_metrics
from cirbench.datasets.own.description import SplitFiles
from cirbench.datasets.own.pictures import Pictures, drop_ending, open_pictures
from cirbench.datasets.own.rows import Row, hash_files, hash_rows, read_all


@dataclass(frozen=True, kw_only=True)
class NamedPictures:
    """Pictures by the names that rows call them.

    Attributes:
        refs: as written → picture; one that is not there has a path where it was looked for.
        missing: id → where it was looked for.
    """

    refs: Mapping[str, ImageRef]
    missing: Mapping[str, str]


def name_pictures(
    pictures: Pictures, rows: Sequence[Row], listed: Mapping[str, str] | None = None
) -> NamedPictures:
    """Find every picture that rows name.

    Args:
        listed: name → path among the pictures, of a list of the gallery.

    Raises:
        CorruptData: a name climbs out of the place of the pictures.
    """
    refs: dict[str, ImageRef] = {}
    missing: dict[str, str] = {}
    wanted = {name: (path, "a list of the gallery") for name, path in (listed or {}).items()}
    for row in rows:
        names = (*(() if row.picture else (row.reference,)), *row.targets, *row.members)
        for name in names:
            wanted.setdefault(name, (name, row.origin))
        if row.picture:
            refs[row.reference] = row.picture
    for name, (path, origin) in wanted.items():
        found = pictures.refs.get(path) or pictures.refs.get(drop_ending(path))
        if found is None:
            found = pictures.make_absent(drop_ending(path), origin)
            missing[drop_ending(name)] = to_text(found.path or "")
        own_id = drop_ending(name) if listed else found.id
        refs[name] = ImageRef(id=own_id, read=found.read, path=found.path)
    return NamedPictures(refs=refs, missing=missing)


def load_split(files: SplitFiles, fields: Sequence[str], protocol: EvaluationProtocol) -> TaskData:
    """Read a split.

    Raises:
        MissingData, UsageError, CorruptData: as `read_all` and `open_pictures`; or a row does not
            go together with the gallery or the protocol, and the message names it.
    """
    return _Split(
        files=files,
        rows=read_all(files.queries, fields),
        pictures=open_pictures(files.pictures),
        protocol=protocol,
    ).load()


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A split that is read, and how it is evaluated."""

    files: SplitFiles
    rows: Sequence[Row]
    pictures: Pictures
    protocol: EvaluationProtocol

    def load(self) -> TaskData:
        gallery = tuple(ref for refs in self._galleries.values() for ref in refs)
        queries = tuple(map(self._make_query, self.rows))
        self._check_protocol(queries)
        return TaskData(
            gallery=gallery,
            queries=queries,
            annotations={
                **hash_rows(self.files.queries, self.rows),
                **{f"gallery {k}": sha256 for k, sha256 in hash_files(self.files.gallery).items()},
            },
            spans={group: span for group, span in self._spans.items() if group},
            missing=self._named.missing,
            remarks=tuple(self._remark(queries, gallery)),
        )

    @cached_property
    def _lists(self) -> Mapping[str, Mapping[str, str]]:
        """Group → name → path, of the pictures that are ranked, where a file lists them."""
        return {group: read_gallery_list(path) for group, path in self.files.gallery.items()}

    @cached_property
    def _named(self) -> NamedPictures:
        listed = {name: path for names in self._lists.values() for name, path in names.items()}
        return name_pictures(self.pictures, self.rows, listed)

    @cached_property
    def _galleries(self) -> Mapping[str, Sequence[ImageRef]]:
        """Group → what its queries are ranked against; "" for all that have none of their own."""
        if self._lists:
            return {g: [self._named.refs[n] for n in names] for g, names in self._lists.items()}
        groups = list(dict.fromkeys(row.group for row in self.rows))
        own = self.pictures.groups
        if own and set(groups) <= own.keys():
            return {group: [self.pictures.refs[name] for name in own[group]] for group in groups}
        named = self._named
        absent = {ref.id: ref for ref in named.refs.values() if ref.id in named.missing}
        return {"": [*self.pictures.refs.values(), *absent.values()]}

    @cached_property
    def _spans(self) -> Mapping[str, range]:
        spans, start = {}, 0
        for group, refs in self._galleries.items():
            spans[group] = range(start, start := start + len(refs))
        return spans

    @cached_property
    def _places(self) -> Mapping[str, Mapping[str, int]]:
        """Group → picture's id → row of the whole gallery."""
        return {
            group: {
                name: self._spans[group].start + place
                for name, place in number_names(
                    [r.id for r in refs], self._name_list(group)
                ).items()
            }
            for group, refs in self._galleries.items()
        }

    def _name_list(self, group: str) -> Path:
        return self.files.gallery.get(group, self.files.pictures)

    def _make_query(self, row: Row) -> Query:
        group = row.group if row.group in self._places else ""
        if group not in self._places:
            raise CorruptData(
                f"{row.origin}: the group must be one that has a gallery, "
                f"{' or '.join(self._places)}, got {row.group!r}"
            )
        reference = self._named.refs[row.reference]
        at = self._places[group].get(reference.id)
        positives = tuple(self._find_row(row, name, group) for name in row.targets)
        members = tuple(self._find_row(row, name, group) for name in row.members)
        for what, rows in (("targets", positives), ("members", members)):
            if len(set(rows)) < len(rows):
                raise CorruptData(f"{row.origin}: the {what} must name each picture once")
        if self.protocol.reference_removed and at in positives:
            raise CorruptData(
                f"{row.origin}: the target must be another picture than the reference, which is "
                f"removed from the ranking, got {row.reference} for both"
            )
        if members and not set(positives) <= set(members):
            raise CorruptData(f"{row.origin}: `members` must name the targets, too")
        return Query(
            id=row.id,
            reference=reference,
            positives=positives,
            target=self._find_row(row, row.target, group) if row.target else None,
            group=row.group,
            fields=row.fields[0],
            removed=at if self.protocol.reference_removed else None,
            members=tuple(member for member in members if member != at),
        )

    def _find_row(self, row: Row, name: str, group: str) -> int:
        place = self._places[group].get(self._named.refs[name].id)
        if place is None:
            raise CorruptData(
                f"{row.origin}: {name} must be in the gallery, {to_text(self._name_list(group))}"
            )
        return place

    def _check_protocol(self, queries: Sequence[Query]) -> None:
        """Every text can be made, and every metric be taken."""
        metrics = [m for name in self.protocol.metrics for m in parse_metrics(name)]
        for row, query in zip(self.rows, queries, strict=True):
            for family in self.protocol.templates:
                self.protocol.text(family, query.group, query.fields)
            for metric in metrics:
                if metric.of_members and not query.members:
                    raise CorruptData(f"{row.origin}: {metric.name} needs `members`, got none")
                if metric.of_target and query.target is None:
                    raise CorruptData(f"{row.origin}: {metric.name} needs `target`, got none")

    def _remark(self, queries: Sequence[Query], gallery: Sequence[ImageRef]) -> Iterator[str]:
        yield from remark_oddities(queries, gallery)
        yield from (f"pictures: {remark}" for remark in self.pictures.remarks)
        kept = sum(query.removed is None for query in queries)
        if self.protocol.reference_removed and kept:
            yield (
                f"{kept:,} of {len(queries):,} queries have a reference that is not in their "
                f"gallery, so nothing is removed for them"
            )


def read_gallery_list(path: Path) -> Mapping[str, str]:
    """Name → path of each picture that is ranked: lines, a JSON list, or CIRR's map of paths.

    Raises:
        MissingData, CorruptData: it can't be read, or is none of these, or names one twice.
    """
    content = read_json(path) if path.suffix == ".json" else list(filter(None, read_lines(path)))
    names = content if isinstance(content, list) else list(content) if content else []
    paths = list(content.values()) if isinstance(content, dict) else names
    if not names or not all(isinstance(one, str) and one for one in (*names, *paths)):
        raise CorruptData(f"{to_text(path)} must name pictures, one at least, got {content!r:.40}")
    number_names(names, path)
    return {name: where.removeprefix("./") for name, where in zip(names, paths, strict=True)}
