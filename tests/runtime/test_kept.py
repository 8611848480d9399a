"""Results that are computed once and found again."""

from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter

from cirbench.benchmark.runtime import kept
from cirbench.benchmark.runtime.kept import find_cache_root, keep

NUMBERS = TypeAdapter(dict[str, list[float]])
VALUE = {"a": [0.1 + 0.2, 1e-300, -0.0], "b": []}


@pytest.fixture
def computed():
    """Calls so far of what keep is given."""
    return []


@pytest.fixture
def get(computed):
    """Keeps VALUE, or another, under a name."""

    def call(name="mean", value=VALUE):
        return keep(NUMBERS, (name, 7, ("a", "b")), lambda: (computed.append(name), value)[1])

    return call


def files():
    return [path for path in find_cache_root().rglob("*") if path.is_file()]


def test_a_result_is_computed_once_and_keeps_every_bit(get, computed):
    assert [get(), get(), get("spread")] == [VALUE] * 3
    assert math.copysign(1, get()["a"][2]) == -1
    assert computed == ["mean", "spread"]


@pytest.mark.parametrize(
    "harm", [lambda text: text[:-1], lambda text: text.replace(b"1e-300", b"2e-300"), lambda _: b""]
)
def test_a_file_that_was_cut_or_altered_is_computed_again(get, computed, harm):
    get()
    [path] = files()
    path.write_bytes(harm(path.read_bytes()))
    assert [get(), get()] == [VALUE] * 2
    assert computed == ["mean"] * 2


def test_what_json_cannot_hold_is_computed_each_time(get, computed):
    for _ in range(2):
        assert math.isnan(get(value={"a": [math.nan]})["a"][0])
    assert computed == ["mean"] * 2


def test_other_code_forgets(get, computed, monkeypatch):
    get()
    monkeypatch.setattr(kept, "hash_code", lambda: "of another version")
    get()
    assert computed == ["mean"] * 2


def test_a_folder_that_cannot_be_made_stops_nobody(get, computed, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "file"))
    assert [get(), get()] == [VALUE] * 2
    assert computed == ["mean"] * 2
