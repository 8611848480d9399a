from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from editing import put
from making import make_body, make_counts, make_run

from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records import record as records
from cirbench.benchmark.records.fields import ArraysFile, Cell, slug
from cirbench.benchmark.records.record import (
    Record,
    check_writable,
    read_record,
    read_records,
    write_record,
)
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file

PROTOCOL = EvaluationProtocol(
    name="emoji",
    version=1,
    gallery="everything",
    reference_removed=False,
    preprocess="clip",
    templates={},
    metrics=("R@1",),
    headline="R@1",
)
CELL = Cell(
    method="pic2word",
    trained_on="cc3m",
    task="emoji",
    split="test",
    protocol="emoji@0123456789ab",
    backbone="ViT-L-14/openai",
    checkpoint="0" * 64,
    seed=0,
)
OTHER = {
    "method": "searle",
    "trained_on": None,
    "task": "circo",
    "split": "val",
    "protocol": "emoji@ba9876543210",
    "backbone": "ViT-L-14-openai",
    "checkpoint": None,
    "seed": 1,
    "label": "mine",
}


def per_query(value=100.0):
    return PerQuery(
        query=np.array(["q0", "ä/é"]),
        reference=np.array(["r0", "r1"]),
        group=np.array(["a", "b"]),
        gallery=np.array(["g0", "g1", "g2"]),
        top=np.array([[0, 1], [2, -1]], dtype=np.int32),
        similarity=np.array([[0.5, 0.25], [0.1, -np.inf]], dtype=np.float32),
        hits=np.array([[True, False], [False, False]]),
        positives=np.array([1, 0]),
        first_rank=np.array([1, 0]),
        tied=np.array([False, True]),
        metrics=np.array(["R@1"]),
        values=np.array([[value], [0.0]]),
    )


def body(cell=CELL, **changes):
    half = Interval(value=50.0, low=0.0, high=100.0, n=2)
    return make_body(
        cell,
        PROTOCOL,
        {"average": {"R@1": half}},
        ["a", "b"],
        **{"counts": make_counts(2, 2, 3), **changes},
    )


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_round_trip(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    assert written.path == tmp_path / CELL.path
    found = read_record(written.path)
    assert found == written
    data = json.loads(written.path.read_text(encoding="utf-8"))
    assert data == json.loads(json.dumps(written.to_json()))
    for name, array in asdict(found.read_per_query()).items():
        expected = getattr(per_query(), name)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected, err_msg=name)


def test_a_record_is_two_files_and_no_more(tmp_path):
    write_record(tmp_path, body(), per_query())
    write_record(tmp_path, body(), per_query(50.0))
    arrays = CELL.path.with_suffix(".npz")
    assert files_below(tmp_path) == sorted([CELL.path.as_posix(), arrays.as_posix()])
    assert read_record(tmp_path / CELL.path).read_per_query().values[0, 0] == 50


@pytest.mark.parametrize("name", [field.name for field in fields(Cell)])
def test_cells_that_differ_anywhere_have_different_paths(name):
    other = replace(CELL, **{name: OTHER[name]})
    assert other.path != CELL.path
    assert other.path.with_suffix(".npz") != CELL.path.with_suffix(".npz")
    assert replace(other, **{name: getattr(CELL, name)}).path == CELL.path


def test_paths_read_like_their_cells():
    assert CELL.path.parts[0] == "emoji"
    assert CELL.path.name.startswith("pic2word--ViT-L-14-openai--emoji--")
    assert slug("Café crème").startswith("Cafe-cre-me-")
    assert slug("検索") != slug("画像")
    assert slug("検索" * 90).isascii()


@pytest.mark.parametrize("name", ["method", "task", "protocol", "backbone"])
@pytest.mark.parametrize("value", ["../../x", "/etc/x", "a\\..\\b", "..", "emoji 🎉", "検索"])
def test_any_name_stays_within_the_folder_and_is_found_again(tmp_path, name, value):
    root = tmp_path / "results"
    cell = replace(CELL, **{name: value})
    write_record(root, body(cell), per_query())
    assert all(path.startswith("results/") for path in files_below(tmp_path))
    assert [getattr(record.cell, name) for record in read_records(root)] == [value]


def test_long_names_are_no_obstacle(tmp_path):
    names = ("method", "backbone", "protocol", "task")
    cell = replace(CELL, **{name: f"{name}-" + "x" * 300 for name in names})
    write_record(tmp_path, body(cell), per_query())
    assert len(list(read_records(tmp_path))) == 1


def test_altered_per_query_data_is_refused(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    arrays = written.path.with_suffix(".npz")
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(CorruptData, match="is not the file") as error:
        written.read_per_query()
    assert str(arrays) in str(error.value)
    assert error.value.exit_code == 4


def test_another_cells_per_query_data_is_refused(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    other = write_record(tmp_path, body(replace(CELL, seed=1)), per_query(0.0))
    other.path.with_suffix(".npz").replace(written.path.with_suffix(".npz"))
    with pytest.raises(CorruptData, match="is not the file"):
        written.read_per_query()


def test_missing_per_query_data_is_refused(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    written.path.with_suffix(".npz").unlink()
    with pytest.raises(CorruptData, match="can't be read"):
        written.read_per_query()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def with_arrays(tmp_path, arrays):
    """A record whose per-query file holds these arrays and is vouched for."""
    path = tmp_path / "arrays.npz"
    np.savez(path, **arrays)
    named = ArraysFile(file=path.name, sha256=sha256_of_file(path))
    return Record(path=tmp_path / "record.json", per_query=named, **vars(body()))


def test_pickle_in_per_query_data_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "trap"
    arrays = {**asdict(per_query()), "query": np.array([Trap(trap), None], dtype=object)}
    with pytest.raises(CorruptData, match="can't be read"):
        with_arrays(tmp_path, arrays).read_per_query()
    assert not trap.exists()


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_per_query_data_with_other_arrays_is_refused(tmp_path, change):
    arrays = asdict(per_query())
    if change == "missing":
        del arrays["tied"]
    else:
        arrays["more"] = np.zeros(2)
    with pytest.raises(CorruptData, match="tied" if change == "missing" else "more"):
        with_arrays(tmp_path, arrays).read_per_query()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 0}', "{}", "\udcff"])
def test_what_is_no_record_of_this_schema_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CorruptData, match=r"record\.json (must be|is not)"):
        read_record(path)


def test_a_record_of_the_next_schema_is_refused(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    newer = {**written.to_json(), "schema": records.SCHEMA + 1}
    written.path.write_text(json.dumps(newer), encoding="utf-8")
    with pytest.raises(CorruptData, match=r"of schema 2, written by a later .* up to 1") as error:
        read_record(written.path)
    assert error.value.exit_code == 4


def test_a_record_of_an_older_schema_is_migrated(tmp_path, monkeypatch):
    def name_prints(data):
        prints = data.pop("prints")
        return {**data, "schema": 1, "fingerprints": prints}

    monkeypatch.setattr(records, "MIGRATIONS", {0: name_prints})
    written = write_record(tmp_path, body(), per_query())
    data = written.to_json()
    older = {**data, "schema": 0, "prints": data.pop("fingerprints")}
    written.path.write_text(json.dumps(older), encoding="utf-8")
    assert read_record(written.path) == written


def test_fields_that_earlier_records_lack_have_their_defaults(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    data = written.to_json()
    for part, name in (("cell", "label"), ("counts", "fragile_queries"), ("run", "threads")):
        del data[part][name]
    written.path.write_text(json.dumps(data), encoding="utf-8")
    assert read_record(written.path) == written


def test_an_edited_protocol_is_refused(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    put("protocol.reference_removed", True)(written.path)
    with pytest.raises(CorruptData, match=f"protocol.hash is '{PROTOCOL.hash}', and"):
        read_record(written.path)


def test_a_wrong_field_is_told_with_its_place(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    put("metrics.average.R@1.value", "99")(written.path)
    with pytest.raises(CorruptData, match=r"metrics\.average\.R@1\.value must be .* got '99'"):
        read_record(written.path)


def test_missing_fields_are_named(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    less = {name: v for name, v in written.to_json().items() if name not in ("counts", "run")}
    written.path.write_text(json.dumps(less), encoding="utf-8")
    with pytest.raises(CorruptData, match="lacks counts, run"):
        read_record(written.path)


@pytest.mark.parametrize(
    "change", [{"run": {}}, {"cell": {"method": "a"}}, {"per_query": {}}, {"run": None}]
)
def test_an_emptied_field_is_one_clear_error(tmp_path, change):
    written = write_record(tmp_path, body(), per_query())
    written.path.write_text(json.dumps({**written.to_json(), **change}), encoding="utf-8")
    with pytest.raises(CorruptData, match="was edited or cut"):
        read_record(written.path)


def test_partial_records_are_left_out(tmp_path):
    write_record(tmp_path, body(run=make_run(partial=True)), per_query())
    whole = write_record(tmp_path, body(replace(CELL, seed=1)), per_query())
    assert [record.path for record in read_records(tmp_path)] == [whole.path]


def test_records_come_in_the_order_of_their_paths(tmp_path):
    for task in ("b", "c", "a"):
        for seed in range(3):
            write_record(tmp_path, body(replace(CELL, task=task, seed=seed)), per_query())
    paths = [record.path for record in read_records(tmp_path)]
    assert len(paths) == 9
    assert paths == sorted(paths)


def test_a_write_under_way_is_not_read(tmp_path):
    written = write_record(tmp_path, body(), per_query())
    with records.write_whole(written.path) as temporary:
        temporary.write_text('{"schema": 1, "cel', encoding="utf-8")
        assert [record.path for record in read_records(tmp_path)] == [written.path]


def full_disk(file, *args, **arrays):
    file.write_bytes(b"half")
    raise OSError(28, "No space left on device")


FAILURES = {
    "no room for the per-query data": (body(), OSError, (np, "savez_compressed")),
    "no room for the record": (body(), OSError, (Path, "write_text")),
    "a NaN": (body(run=make_run(seconds={"load": float("nan")})), ValueError, None),
    "a value that JSON does not know": (body(counts=object()), TypeError, None),
}


def failed_write(root, failure):
    data, error, broken = FAILURES[failure]
    with pytest.MonkeyPatch.context() as patch:
        if broken:
            patch.setattr(*broken, full_disk)
        with pytest.raises(error):
            write_record(root, data, per_query(50.0))


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_write_leaves_nothing(tmp_path, failure):
    failed_write(tmp_path, failure)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_write_leaves_the_former_record(tmp_path, failure):
    write_record(tmp_path, body(), per_query(100.0))
    failed_write(tmp_path, failure)
    (former,) = read_records(tmp_path)
    assert former.read_per_query().values[0, 0] == 100


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "results")
    assert (tmp_path / "new" / "results").is_dir()
    assert files_below(tmp_path) == []


def test_an_output_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="--output") as error:
        check_writable(tmp_path / "file" / "results")
    assert str(tmp_path / "file" / "results") in str(error.value)
    assert error.value.exit_code == 2


def test_two_runs_may_check_one_folder_at_once(tmp_path, monkeypatch):
    write_whole = records.write_whole

    @contextmanager
    def then_the_other_run_tidies_up(path):
        with write_whole(path) as temporary:
            yield temporary
        path.unlink()

    monkeypatch.setattr(records, "write_whole", then_the_other_run_tidies_up)
    check_writable(tmp_path)
