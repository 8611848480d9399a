"""Croissant 1.0: a task's files as a data set that machine-learning tools read.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html. The files of an embedded task,
which may be passed on, are put beside the page, and each table's columns described. Of another
task the page has addresses and checksums alone, of what its owners let everybody fetch.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cirbench.benchmark.api import registry
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole

PAGE, LICENCES = "croissant.json", "LICENSES.md"
VERSION = "http://mlcommons.org/croissant/1.0"
_TABLE = ".csv"
_FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".tar": "application/x-tar",
    ".txt": "text/plain",
    ".zip": "application/zip",
}
_TERMS = (
    "citeAs column conformsTo containedIn equivalentProperty extract field fileProperty fileObject "
    "fileSet format includes isLiveDataset jsonPath key md5 parentField path recordSet references "
    "regex repeated replace separator source subField transform"
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "samplingRate": "cr:samplingRate",
}
"""The specification's, word by word: readers warn of another."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a data set.

    Attributes:
        path: its name, or where it goes below a data root.
        url: where its bytes are; for one that lies beside the page, its name.
        checksum: "sha256" or "md5" → its hexadecimal digits; empty where none is published.
        local: what is copied beside the page, if it is.
    """

    path: str
    url: str
    checksum: Mapping[str, str]
    local: Path | None = None


def choose_tasks(names: Sequence[str]) -> dict[str, list[File]]:
    """Find the files of these tasks, or of every task that has some.

    Raises:
        UsageError: a task is not known, or has no file that could be described.
    """
    found = {name: find_files(name) for name in names or registry.tasks()}
    for name in names:
        if not found[name]:
            able = ", ".join(task for task in registry.tasks() if find_files(task))
            raise UsageError(
                f"{name} has no file that everybody may fetch; tasks that have some: {able}"
            )
    return {name: own for name, own in found.items() if own}


def find_files(name: str) -> list[File]:
    """Find what a task's data set consists of, as far as it can be described."""
    task, entry = registry.find_task(name), registry.tasks().get(name)
    if entry and entry.embedded and task.credit:
        folder = Path(str(files(task.__module__.rpartition(".")[0])))
        return [
            File(
                path=path.name,
                url=path.name,
                checksum={"sha256": sha256_of_file(path)},
                local=path,
            )
            for path in sorted(folder.iterdir())
            if path.suffix in (_TABLE, ".safetensors") or path.name == LICENCES
        ]
    return [
        File(path=one.path, url=one.url, checksum=_parse_checksum(one.checksum or ""))
        for one in task.downloads
    ]


def _parse_checksum(text: str) -> Mapping[str, str]:
    """Split "sha256:…" or "md5:…"; what a commit's archive has is nothing that Croissant knows."""
    algorithm, _, digits = text.partition(":")
    return {algorithm: digits} if algorithm in ("sha256", "md5") else {}


def write_croissant(tasks: dict[str, list[File]], folder: Path) -> Iterator[Path]:
    """Write a folder a task, and yield each file's path; the page comes last."""
    for name, own in tasks.items():
        home = folder / slug(name)
        for file in own:
            if file.local:
                with write_whole(home / file.path) as temporary:
                    shutil.copyfile(file.local, temporary)
                yield home / file.path
        page = json.dumps(make_page(registry.find_task(name), own), indent=2, ensure_ascii=False)
        with write_whole(home / PAGE) as temporary:
            temporary.write_text(f"{page}\n", encoding="utf-8", newline="\n")
        yield home / PAGE


def make_page(task: type[Task], own: Sequence[File]) -> dict[str, Any]:
    """Describe a data set and its files."""
    tables = [file for file in own if file.local and file.path.endswith(_TABLE)]
    terms = task.credit or task.how_to_get
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": task.name,
        "description": f"Composed image retrieval. {task.__doc__ or task.title} {terms}",
        "license": terms,
        "isLiveDataset": not all(file.checksum for file in own),  # only there it may be absent
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.path,
                "name": Path(file.path).name,
                "contentUrl": file.url,
                "encodingFormat": _FORMATS.get(Path(file.path).suffix, "application/octet-stream"),
                **file.checksum,
            }
            for file in own
        ],
        "recordSet": [_describe_table(file) for file in tables],
    }


def _describe_table(file: File) -> dict[str, Any]:
    assert file.local is not None  # only those have columns
    with file.local.open(newline="", encoding="utf-8") as table:
        columns = next(csv.reader(table))
    name = Path(file.path).stem
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": file.path}, "extract": {"column": column}},
            }
            for column in columns
        ],
    }
