"""rocrate loads a results folder, and finds every file that the page lists."""

from __future__ import annotations

import datetime
import hashlib
import json
from urllib.parse import unquote

import pytest
from making import make_run
from rocrate.rocrate import ROCrate

from cirbench.benchmark.export.ro_crate import PAGE, write_ro_crate
from cirbench.benchmark.runtime.errors import MissingData

DATE = datetime.date(2026, 11, 28)


def test_rocrate_finds_each_file_of_the_folder(world, tmp_path):
    report = world.root / "report" / "a page, 100% odd é.html"
    report.parent.mkdir()
    report.write_text("<html>", encoding="utf-8")
    (world.root / ".unfinished.json").write_text("{", encoding="utf-8")
    page = write_ro_crate(world.root, DATE)
    crate = ROCrate(world.root)
    assert crate.root_dataset["datePublished"] == "2026-11-28"
    listed = {unquote(entity.id): entity for entity in crate.data_entities}
    there = {path.relative_to(world.root).as_posix() for path in world.root.rglob("*.*")}
    assert listed.keys() == there - {PAGE, ".unfinished.json"}
    for name, entity in listed.items():
        content = (world.root / name).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["contentSize"] == str(len(content))
    crate.write(tmp_path / "copy")  # which reads every file
    assert (tmp_path / "copy" / "report" / report.name).read_bytes() == report.read_bytes()
    assert page == world.root / PAGE


def test_the_same_folder_has_the_same_page(world):
    first = write_ro_crate(world.root, DATE).read_bytes()
    assert write_ro_crate(world.root, DATE).read_bytes() == first


def test_made_and_partial_records_say_so(world):
    world.write(method="real")
    world.write(method="made", made=True)
    world.write(method="partial", run=make_run(partial=True, limit=3))
    page = json.loads(write_ro_crate(world.root, DATE).read_text(encoding="utf-8"))
    said = {
        one["name"].split()[0]: one["description"] for one in page["@graph"] if "description" in one
    }
    assert "MADE" in said["made"]
    assert "PARTIAL" in said["partial"]
    assert said["real"] == said["m"]
    assert "mAP@5" in said["real"]
    assert "MADE" not in said["real"]
    assert "PARTIAL" not in said["real"]


def test_a_folder_without_records_is_no_crate(tmp_path):
    with pytest.raises(MissingData, match="no records"):
        write_ro_crate(tmp_path, DATE)
    assert not list(tmp_path.iterdir())


def test_the_command_names_the_page(bench, world):
    code, out, error = bench("export", "ro-crate", "--output", world.root)
    assert code == 0, error
    assert out.strip() == str(world.root / PAGE)
