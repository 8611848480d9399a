"""RO-Crate 1.1: a results folder as a research object, whose page lists and describes its files.

https://www.researchobject.org/ro-crate/specification/1.1/. The page lies in the folder itself.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cirbench.benchmark.export.origin import describe_origin
from cirbench.benchmark.records.record import Record, read_record
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole
from cirbench.benchmark.runtime.paths import to_text

PAGE = "ro-crate-metadata.json"
_VERSION = "https://w3id.org/ro/crate/1.1"
_FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}


def write_ro_crate(root: Path, date: datetime.date) -> Path:
    """Write the page of a results folder, and return its path.

    Args:
        date: of publication.

    Raises:
        MissingData: the folder has no record.
        CorruptData: a record is damaged.
    """
    records = {path: read_record(path) for path in sorted(root.glob("*/[!.]*.json"))}
    if not records:
        raise MissingData(f"no records in {root}; make one with bench run")
    paths = [path for path in _list_files(root) if path != root / PAGE]
    described = {
        **{path: describe_record(record) for path, record in records.items()},
        **{
            path.parent / record.per_query.file: {"name": f"per-query data of {path.name}"}
            for path, record in records.items()
        },
    }
    entities = [_describe_file(path, root) | described.get(path, {}) for path in paths]
    root_entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"cirbench results: {', '.join(sorted({r.task_label for r in records.values()}))}",
        "description": f"{len(records)} records of composed image retrieval, and what is made of "
        "them",
        "datePublished": date.isoformat(),
        "hasPart": [{"@id": entity["@id"]} for entity in entities],
    }
    descriptor = {
        "@id": PAGE,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": _VERSION},
    }
    # the version's own context is of before schema.org had this term
    context = [f"{_VERSION}/context", {"sha256": "https://schema.org/sha256"}]
    page = {"@context": context, "@graph": [descriptor, root_entity, *entities]}
    with write_whole(root / PAGE) as temporary:
        temporary.write_text(f"{json.dumps(page, indent=2)}\n", encoding="ascii")
    return root / PAGE


def _list_files(root: Path) -> Iterator[Path]:
    """List what is below a folder, but for hidden files, which may be unfinished ones."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _describe_file(path: Path, root: Path) -> dict[str, Any]:
    return {
        "@id": quote(os.fsencode(path.relative_to(root))),
        "@type": "File",
        "name": to_text(path.name),
        "contentSize": str(path.stat().st_size),
        "encodingFormat": _FORMATS.get(path.suffix, "application/octet-stream"),
        "sha256": sha256_of_file(path),
    }


def describe_record(record: Record) -> dict[str, str]:
    """Say what a record is of, what came of it, and whether it is of all the task's own data."""
    cell, metric = record.cell, record.protocol.headline
    said = ["no public labels"]
    if record.metrics:
        best = record.metrics["average"][metric]
        said = [f"{metric} {best.value:.2f} ({best.low:.2f} to {best.high:.2f})"]
    said.append(describe_origin(record))
    said += ["MADE DATA"] if record.made else []
    said += ["PARTIAL: queries or pictures are left out"] if record.run.partial else []
    return {
        "name": f"{record.method_label} on {record.task_label} ({cell.split}), {cell.backbone}",
        "description": f"protocol {cell.protocol}, seed {cell.seed}: {'; '.join(said)}",
    }
