"""A room imports only what stands below it."""

from __future__ import annotations

import house
import pytest
from places import ROOT


def test_every_room_stands_on_one_floor():
    placed = [room for floor in house.FLOORS for room in floor]
    assert len(placed) == len(set(placed))
    assert set(house.between("room")) - {"benchmark"} == set(placed)


def test_imports_go_down():
    assert house.arrows_up() == []


@pytest.mark.parametrize("kind", ["room", "package"])
def test_no_rooms_or_folders_import_each_other(kind):
    assert house.circles(house.between(kind)) == []


def test_no_modules_import_each_other():
    assert house.circles(house.imports()) == []


def test_an_arrow_that_runs_up_is_seen(monkeypatch):
    turned = {**house.imports(), "benchmark.runtime.errors": frozenset({"benchmark.cli.main"})}
    monkeypatch.setattr(house, "imports", lambda: turned)
    assert house.arrows_up() == [("benchmark.runtime", "benchmark.cli")]
    assert "benchmark.api" in house.circles(house.between("room"))


def test_imports_are_found_wherever_they_stand():
    found = house.imports()
    assert "slurm.planning" in found["benchmark.cli.sweep"]  # in a function
    assert "benchmark.api.protocol" in found["benchmark.api.values"]  # for types


@pytest.mark.parametrize("package", sorted(set(map(house.package_of, house.modules()))))
def test_every_folder_says_what_it_is(package):
    assert house.sentences(package)[0]


def test_the_page_draws_the_house_of_today():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert text == house.with_drawing(text), "python tests/support/house.py writes it"
