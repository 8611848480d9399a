"""Croissant's own library reads the pages without an error, and the tables that they describe."""

from __future__ import annotations

import csv
import hashlib
import json
from itertools import islice

import mlcroissant
import pytest

from cirbench.benchmark.api.registry import find_task, tasks
from cirbench.benchmark.export.croissant import PAGE, choose_tasks, write_croissant

EMBEDDED = [name for name, entry in tasks().items() if entry.embedded]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All tasks that can be described."""
    folder = tmp_path_factory.mktemp("croissant")
    list(write_croissant(choose_tasks(()), folder))
    return folder


def read(folder, task):
    return json.loads((folder / task / PAGE).read_text(encoding="utf-8"))


def test_the_library_reads_every_page_without_an_error(folder):
    pages = sorted(folder.glob(f"*/{PAGE}"))
    fetched = {name for name in tasks() if find_task(name).downloads}
    assert {page.parent.name for page in pages} == {*EMBEDDED, *fetched}
    for page in pages:
        data = mlcroissant.Dataset(jsonld=page)
        assert not data.metadata.issues.errors
        assert data.metadata.name == page.parent.name


def test_the_library_would_see_a_missing_checksum(folder):
    page = read(folder, "kin")
    del page["distribution"][0]["sha256"]
    with pytest.raises(mlcroissant.ValidationError, match="sha256"):
        mlcroissant.Dataset(jsonld=page)


def test_the_library_reads_a_table_as_it_is(folder):
    data = mlcroissant.Dataset(jsonld=folder / "kin" / PAGE)
    with (folder / "kin" / "queries.csv").open(newline="", encoding="utf-8") as table:
        rows = list(islice(csv.DictReader(table), 5))
    found = list(islice(data.records("queries"), 5))
    assert [
        {name.partition("/")[2]: value.decode() for name, value in row.items()} for row in found
    ] == rows


@pytest.mark.parametrize("task", EMBEDDED)
def test_an_embedded_tasks_files_lie_beside_the_page_with_their_licences(folder, task):
    described = {one["@id"]: one for one in read(folder, task)["distribution"]}
    there = {path.name: path for path in (folder / task).iterdir() if path.name != PAGE}
    assert described.keys() == there.keys()
    for name, path in there.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == described[name]["sha256"]
    holds_pictures = any(name.endswith(".safetensors") for name in there)
    assert ("LICENSES.md" in there) == holds_pictures
    assert find_task(task).credit in read(folder, task)["license"]


def test_of_a_licensed_task_there_are_addresses_alone(folder):
    assert [path.name for path in (folder / "circo").iterdir()] == [PAGE]
    page = read(folder, "circo")
    found = {one["contentUrl"]: one.get("sha256") for one in page["distribution"]}
    downloads = find_task("circo").downloads
    assert found == {d.url: d.checksum and d.checksum.removeprefix("sha256:") for d in downloads}
    assert page["isLiveDataset"]
    assert not read(folder, "fashion-iq")["isLiveDataset"]


def test_a_task_without_a_file_to_describe_is_a_mistake(bench, tmp_path):
    code, _, error = bench("export", "croissant", "-t", "coco", "--out", tmp_path / "out")
    assert code == 2
    assert "coco has no file that everybody may fetch" in error
    assert not (tmp_path / "out").exists()
