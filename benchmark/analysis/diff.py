"""What changed in a results folder against a commit, metric by metric."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cirbench.benchmark.records.record import Record, parse_record
from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.scoring.summary import read_scored

Metrics = Mapping[tuple[str, str], float]
"""(group, metric) → percent."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A metric that is not what it was; None where it was not there, or is not any more."""

    record: str
    group: str
    metric: str
    before: float | None
    after: float | None

    def beyond(self, tolerance: float) -> bool:
        """Whether it moved by more than `tolerance` points, or came or went."""
        if self.before is None or self.after is None:
            return True
        return abs(self.after - self.before) > tolerance


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Records by their path below the results folder, and the metrics that changed in others."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changes: tuple[Change, ...]


def diff(root: Path, revision: str) -> Diff:
    """Compare the records below `root` with those of a revision.

    Raises:
        UsageError: `root` is in no repository, or the revision is not known there.
        MissingData: git is not installed, or there is no such folder.
        CorruptData: a record, now or then, is damaged or of another schema.
    """
    before, after = dict(_read_then(root, revision)), dict(_read_now(root))
    changes: list[Change] = []
    for name in sorted(before.keys() & after.keys()):
        changes += _list_changes(name, before[name], after[name])
    return Diff(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changes=tuple(changes),
    )


def _list_changes(record: str, old: Metrics, new: Metrics) -> Iterator[Change]:
    for group, metric in dict.fromkeys([*old, *new]):
        before, after = old.get((group, metric)), new.get((group, metric))
        if before != after:
            yield Change(record=record, group=group, metric=metric, before=before, after=after)


def _read_now(root: Path) -> Iterator[tuple[str, Metrics]]:
    for record in read_scored(root):
        yield record.path.relative_to(root).as_posix(), _list_metrics(record)


def _read_then(root: Path, revision: str) -> Iterator[tuple[str, Metrics]]:
    commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    listed = _git(root, "ls-tree", "-r", "-z", "--name-only", commit.strip(), ".")
    for name in listed.split("\0"):
        path = Path(name)
        if path.suffix == ".json" and len(path.parts) == 2 and not path.name.startswith("."):
            text = _git(root, "show", f"{commit.strip()}:./{name}")
            record = parse_record(text, Path(f"{revision}:{name}"))
            if record.whole:
                yield name, _list_metrics(record)


def _list_metrics(record: Record) -> Metrics:
    return {
        (group, metric): interval.value
        for group, values in record.metrics.items()
        for metric, interval in values.items()
    }


def _git(root: Path, *arguments: str) -> str:
    """Ask git inside `root`, and return what it prints."""
    if not root.is_dir():
        raise MissingData(f"no results folder at {root}; choose it with --output")
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)
    except FileNotFoundError as error:
        raise MissingData("git is not installed, or not on the PATH") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip() or f"exit {error.returncode}"
        raise UsageError(
            f"git {arguments[0]} in {root}: {reason}; the results folder must be inside a git "
            f"repository that knows the revision"
        ) from error
    return done.stdout.decode()
