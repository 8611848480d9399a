"""Records that were cut, edited, copied, or written by a stranger."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from editing import drop, put
from hypothesis import given, settings
from hypothesis import strategies as st

from cirbench.benchmark.records.record import read_record
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.scoring.summary import check_scored

READERS = (
    ("leaderboard",),
    ("report",),
    ("verify",),
    ("compare", "image-only", "text-only"),
    ("leaderboard", "--check"),
)


def one(folder, method="image-only"):
    [path] = folder.glob(f"{method}--*.json")
    return path


def cut_arrays(path):
    arrays = path.with_suffix(".npz")
    with np.load(arrays) as found:
        kept = {
            name: array[:5] if array.ndim and len(array) > 100 else array
            for name, array in found.items()
        }
    np.savez(arrays, **kept)
    put("per_query.sha256", hashlib.sha256(arrays.read_bytes()).hexdigest())(path)


def write(text):
    return lambda path: path.write_bytes(text.encode("utf-8", "surrogatepass"))


def dangle(path):
    path.unlink()
    path.symlink_to("nowhere")


def copy(path):
    shutil.copy(path, path.with_name("copy.json"))


DAMAGE = {
    "a value that is text": put("metrics.average.R@10", "99"),
    "an interval of text": put("metrics.average.R@10.value", "99"),
    "an edited value": put("metrics.average.R@10.value", 99.9),
    "a value that is no number": put("metrics.average.R@10.value", float("nan")),
    "an infinite bound": put("metrics.average.R@10.high", float("inf")),
    "bounds in the wrong order": put("metrics.average.R@10.low", 101.0),
    "a truth value for a number": put("metrics.average.R@10.value", True),
    "a metric less": drop("metrics.average.R@10"),
    "a bound less": drop("metrics.average.R@10.low"),
    "a group in the metrics only": put("metrics.nowhere", {}),
    "another group": put("groups", ["flat", "nowhere"]),
    "no groups": drop("groups"),
    "groups as text": put("groups", "flat"),
    "no protocol": put("protocol", None),
    "a protocol of text": put("protocol", "emoji"),
    "a headline that is no metric": put("protocol.headline", "R@7"),
    "a version of text": put("protocol.version", "1"),
    "a method without supervision": drop("method.zero_shot"),
    "a method of text": put("method", "pic2word"),
    "an environment of text": put("environment", "mine"),
    "no fingerprints": put("fingerprints", {}),
    "a fingerprint that is a number": put("fingerprints.gallery", 7),
    "no counts": put("counts", {}),
    "a count that is text": put("counts.queries", "600"),
    "another count": put("counts.queries", 7),
    "annotations of text": put("annotations", "released"),
    "no run": drop("run"),
    "partial as text": put("run.partial", "no"),
    "per-query data by number": put("per_query.file", 7),
    "per-query data elsewhere": put("per_query.file", "../../../etc/passwd"),
    "per-query data with NUL": put("per_query.file", "a\0b"),
    "per-query data that is not there": put("per_query.file", "none.npz"),
    "a field less": drop("cell.method"),
    "a field more in the cell": put("cell.size", 7),
    "a seed of text": put("cell.seed", "0"),
    "half a character": put("cell.method", "\ud800"),
    "another schema": put("schema", 99),
    "five rows of per-query data": cut_arrays,
    "no JSON": write("{"),
    "a list": write("[]"),
    "nothing": write(""),
    "nested too deep": write("[" * 100_000),
    "a dangling link": dangle,
    "a copy": copy,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_record_is_refused_by_every_reader(results, bench, case):
    DAMAGE[case](one(results))
    before = sorted(Path().rglob("*"))
    for reader in READERS:
        code, _, err = bench(*reader)
        assert code == 4, (reader, err)
        assert err.count("bench: error: ") == 1
        assert "Traceback" not in err
        assert str(results) in err
    assert sorted(Path().rglob("*")) == before


def test_whole_records_are_taken_by_every_reader(results, bench):
    for reader in READERS:
        assert bench(*reader)[0] == 0, reader


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_field_of_any_kind_is_a_record_or_is_refused(made, data):
    source = one(made / "emoji")
    record = json.loads(source.read_text(encoding="utf-8"))
    place = record
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            break
        place = place[key]
    path = source.with_name(f".{source.name}")
    path.write_text(json.dumps(record), encoding="utf-8")
    with suppress(CorruptData, UsageError):  # a locale may lack letters of a file's name
        check_scored(read_record(path))
    path.unlink()


def test_records_of_other_weights_under_one_name_never_meet(results, bench):
    put("fingerprints.weights", "b" * 64)(one(results, "text-only"))
    code, _, err = bench("compare", "image-only", "text-only")
    assert code == 2
    assert "weights of the backbone" in err
    assert bench("leaderboard")[0] == 0
    text = Path("results/leaderboard.md").read_text(encoding="utf-8")
    assert text.count("\n## ") == 2
    assert "weights bbbbbbbb" in text


def test_two_checkpoints_of_one_method_are_told_apart(bench):
    for seed, name in ((1, "a"), (2, "b")):
        train = (
            "train",
            "pic2word",
            "--images",
            "emoji",
            "-b",
            "fake",
            "--epochs",
            "1",
            "-q",
            "--batch-size",
            "2048",
            "--seed",
            seed,
            "-o",
            f"{name}.safetensors",
        )
        assert bench(*train)[0] == 0
        run_it = (
            "run",
            "-m",
            "pic2word",
            "-t",
            "emoji",
            "--split",
            "val",
            "-b",
            "fake",
            "-q",
            "--checkpoint",
            f"{name}.safetensors",
        )
        assert bench(*run_it)[0] == 0
    said = [
        bench("leaderboard")[1],
        bench("compare", *map(str, Path("results").glob("*/*.json")))[1],
    ]
    assert bench("report")[0] == 0
    written = [
        Path("results/leaderboard.md"),
        Path("results/report/index.html"),
        *Path("results/report/tables").glob("*average.csv"),
    ]
    for text in (*said, *(path.read_text(encoding="utf-8") for path in written)):
        assert "a.safetensors" in text
        assert "b.safetensors" in text
    assert bench(*run_it, "--label", "the better one")[0] == 0
    assert bench("leaderboard")[0] == 0
    assert "the better one" in Path("results/leaderboard.md").read_text(encoding="utf-8")
