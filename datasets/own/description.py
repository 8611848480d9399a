"""What a task of one's own is made of: a TOML file, or a folder of files with the usual names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import backbone_entry, tasks
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.parsing import read_toml
from cirbench.benchmark.runtime.paths import to_text
from cirbench.benchmark.runtime.validation import Table, ValidationErrors
from cirbench.benchmark.scoring.metrics import parse_metrics

TASK_FILE = "task.toml"
QUERIES = tuple(f"queries{ending}" for ending in (".jsonl", ".csv", ".json", ".parquet"))
PICTURES = tuple(
    f"{name}{ending}"
    for name in ("pictures", "images")
    for ending in ("", ".zip", ".tar", ".parquet")
)
CORPUS = ("corpus", "queries", "qrels")
"""Tables of a retrieval data set as MTEB has them: pictures, queries, and which answer which."""
TEMPLATES = {
    "text": "{text}",
    "pseudo-word": "a photo of * , {text}",
    "that": "a photo of * that {text}",
}

Text = Annotated[str, Field(description="a string")]
Texts = Annotated[list[str], Field(description="a list of strings")]
Flag = Annotated[bool, Field(description="true or false")]
Positive = Annotated[int, Field(ge=1, description="a positive integer")]
Templates = Annotated[dict[str, str], Field(description="a table of strings")]
SubTable = Annotated[dict[str, Any], Field(description="a table")]
Paths = Annotated[str | dict[str, str], Field(description='"FILE", or a table of GROUP = "FILE"')]


class ProtocolTable(Table):
    """The table [protocol]."""

    version: Positive = 1
    reference_removed: Flag = True
    preprocess: Text = "clip"
    image_text_sum: Annotated[
        Literal["normalised", "raw"], Field(description='"normalised" or "raw"')
    ] = "normalised"
    overlong_text: Annotated[
        Literal["error", "truncate"], Field(description='"error" or "truncate"')
    ] = "error"
    metrics: Texts = Field(default=["R@1", "R@5", "R@10", "R@50"])
    headline: Text = ""
    templates: Templates = Field(default={})


class SplitTable(Table):
    """A table [splits.NAME]."""

    queries: Paths = ""
    pictures: Text = ""
    gallery: Paths = ""


class TrainTable(Table):
    """The table [train]."""

    queries: Paths = ""
    pictures: Text = ""
    select_on: Text = ""


class TaskTable(Table):
    """The whole file."""

    name: Text = ""
    title: Text = ""
    credit: Text = ""
    backbone: Text = "ViT-L-14/openai"
    pictures: Text = ""
    fields: Texts = Field(default=[])
    protocol: SubTable = Field(default={})
    splits: SubTable = Field(default={})
    train: SubTable | None = None


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """Where a split lies.

    Attributes:
        queries: group → table; the group "" is whatever the rows say.
        pictures: a folder, an archive or tables.
        gallery: group → list of the names that are ranked, "" for those of all groups; empty
            where every picture is.
    """

    queries: Mapping[str, Path]
    pictures: Path
    gallery: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class TrainFiles:
    """What training may see.

    Attributes:
        queries: as of a split; empty where only pictures are trained on.
        whole: whether every one of the pictures is, and not only those that the queries name.
        select_on: the split that the best epoch is chosen on; empty where there are no queries.
    """

    queries: Mapping[str, Path]
    pictures: Path
    whole: bool
    select_on: str


@dataclass(frozen=True, kw_only=True)
class Description:
    """A task of one's own.

    Attributes:
        path: the file or folder that a person named.
        fields: columns of the queries that templates may speak of, besides the text.
    """

    path: Path
    name: str
    title: str
    credit: str
    backbone: str
    fields: tuple[str, ...]
    protocol: EvaluationProtocol
    splits: Mapping[str, SplitFiles]
    train: TrainFiles | None


def read_description(path: Path) -> Description:
    """Read a task's TOML file, or a folder with one; a folder without one has the defaults.

    Raises:
        MissingData: there is neither, or no pictures or queries are named or lie there.
        UsageError: it is not valid TOML, or says what cannot be; all mistakes are told at once.
    """
    file = path / TASK_FILE if path.is_dir() else path
    if not path.is_dir() and not path.is_file():
        raise MissingData(f"no task at {to_text(path)}; bench new task writes one to begin with")
    errors = ValidationErrors(f"task {to_text(path)}")
    written = errors.validate(TaskTable, read_toml(file) if file.is_file() else {})
    protocol = errors.validate(ProtocolTable, written.protocol, "[protocol]")
    found = path.resolve()
    name = written.name or (found.name if path.is_dir() else found.stem)
    if name in tasks():
        errors.add(f"name must not be that of another task, got {name!r}")
    with errors.collect():
        backbone_entry(written.backbone)
    splits = _read_tables(SplitTable, written.splits or {"test": {}}, errors)
    train = None
    if written.train is not None:
        train = errors.validate(TrainTable, written.train, "[train]")
        _check_train(train, list(splits), errors)
    made = _make_protocol(name, protocol, errors)
    errors.raise_if_any()
    places = _Places(file.parent, written.pictures)
    return Description(
        path=path,
        name=name,
        title=written.title,
        credit=written.credit,
        backbone=written.backbone,
        fields=tuple(written.fields),
        protocol=made,
        splits={name: places.find_split(table) for name, table in splits.items()},
        train=None if train is None else places.find_train(train),
    )


def _read_tables(
    kind: type[SplitTable], tables: Mapping[str, Any], errors: ValidationErrors
) -> dict[str, SplitTable]:
    read = {}
    for name, table in tables.items():
        if isinstance(table, dict):
            read[name] = errors.validate(kind, table, f"[splits.{name}]")
        else:
            errors.add(f"splits.{name} must be a table, got {table!r}")
    return read


def _check_train(train: TrainTable, splits: Sequence[str], errors: ValidationErrors) -> None:
    if not train.queries and not train.pictures:
        errors.add("[train] must name queries, pictures or both")
    if train.queries and _choose_selection(train, splits) is None:
        known = " or ".join(splits)
        errors.add(f"[train]: select_on must name a split, {known}, got {train.select_on!r}")


def _choose_selection(train: TrainTable, splits: Sequence[str]) -> str | None:
    """The split that epochs are chosen on; `val` is where none is named."""
    wanted = train.select_on or "val"
    return wanted if wanted in splits else None


def _make_protocol(name: str, table: ProtocolTable, errors: ValidationErrors) -> EvaluationProtocol:
    metrics = list(dict.fromkeys(table.metrics))
    with errors.collect():
        parsed = [metric for one in metrics for metric in parse_metrics(one)]
        if all(metric.of_members for metric in parsed):
            errors.add("[protocol]: metrics must have one of the whole gallery, such as R@10")
        if graded := [metric.name for metric in parsed if metric.graded]:
            errors.add(f"[protocol]: metrics must need no grades of answers, got {graded[0]}")
    headline = table.headline or ("R@10" if "R@10" in metrics else "".join(metrics[:1]))
    if headline not in metrics:
        errors.add(f"[protocol]: headline must be one of the metrics, got {headline!r}")
    return EvaluationProtocol(
        name=name,
        version=table.version,
        gallery="the pictures that the task's files name",
        reference_removed=table.reference_removed,
        preprocess=table.preprocess,
        templates={**TEMPLATES, **table.templates},
        image_text_sum=table.image_text_sum,
        overlong_text=table.overlong_text,
        metrics=tuple(metrics),
        headline=headline,
    )


@dataclass(frozen=True)
class _Places:
    """Where files lie that a description names, or leaves to the usual names."""

    folder: Path
    pictures: str

    def find_split(self, table: SplitTable) -> SplitFiles:
        return SplitFiles(
            queries=self._locate(table.queries) or {"": self._find_queries()},
            pictures=self._find_pictures(table.pictures),
            gallery=self._locate(table.gallery),
        )

    def find_train(self, table: TrainTable) -> TrainFiles:
        queries = self._locate(table.queries)
        return TrainFiles(
            queries=queries,
            pictures=self._find_pictures(table.pictures),
            whole=bool(table.pictures),
            select_on=(table.select_on or "val") if queries else "",
        )

    def _locate(self, paths: str | Mapping[str, str]) -> dict[str, Path]:
        by_group = {"": paths} if isinstance(paths, str) else paths
        return {group: self._resolve(path) for group, path in by_group.items() if path}

    def _resolve(self, path: str) -> Path:
        return self.folder / Path(path).expanduser()

    def _find_queries(self) -> Path:
        if all((self.folder / name).is_dir() for name in CORPUS):
            return self.folder
        return self._first("queries", QUERIES)

    def _find_pictures(self, own: str) -> Path:
        if wanted := own or self.pictures:
            return self._resolve(wanted)
        if all((self.folder / name).is_dir() for name in CORPUS):
            return self.folder / CORPUS[0]
        return self._first("pictures", PICTURES)

    def _first(self, what: str, names: Sequence[str]) -> Path:
        for path in (self.folder / name for name in names):
            if path.exists():
                return path
        raise MissingData(
            f"no {what} in {to_text(self.folder)}: none of {', '.join(names)} is there, and no "
            f"{TASK_FILE} names others; bench new task writes one to begin with"
        )


def list_places(description: Description) -> Iterator[tuple[str, Path]]:
    """What the task reads, each with a name for a person."""
    for split, files in description.splits.items():
        for kind, by_group in (("queries", files.queries), ("gallery", files.gallery)):
            for group, path in by_group.items():
                yield f"{kind} of {split}" + (f", {group}" if group else ""), path
        yield f"pictures of {split}", files.pictures
    if description.train:
        for group, path in description.train.queries.items():
            yield "training queries" + (f", {group}" if group else ""), path
        yield "training pictures", description.train.pictures
