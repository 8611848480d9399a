"""bench data convert-features: released vectors become files, and no pickle runs anything."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from vectors import NAMES, WIDTH, draw_vectors, to_npy, write_annotations

from cirbench.benchmark.data import features
from cirbench.benchmark.data.array_pickle import read_pickled_array
from cirbench.benchmark.records.record import read_records
from cirbench.benchmark.runtime.errors import CorruptData

VECTOR = np.linspace(-1, 1, WIDTH, dtype=np.float32)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def convert(bench):
    """Converts a source into `out`."""
    return lambda source, output="out": bench("data", "convert-features", source, output, "-q")


def pack(name: str, content: object, protocol: int = 4) -> Path:
    """A file of a source folder `in`, pickled unless it is bytes."""
    path = Path("in", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    path.write_bytes(whole)
    return path


def list_files(folder: str = "out") -> list[str]:
    root = Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# Round trips


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<f2"])
def test_a_folder_of_pickles_becomes_a_folder_of_vectors(convert, protocol, kind):
    vectors = {"dev/a-0-img0": VECTOR, "train/34/b.2-img1": VECTOR[::-1]}
    for name, values in vectors.items():
        pack(f"{name}.pkl", values.astype(kind), protocol)
    code, out, err = convert("in")
    assert code == 0, err
    assert out == "2 vectors of 8 numbers are in out; their backbone is features:8\n"
    assert list_files() == [f"{name}.npy" for name in vectors]
    for name, values in vectors.items():
        found = np.load(f"out/{name}.npy")
        assert found.dtype == np.dtype("<f4")
        np.testing.assert_array_equal(found, values.astype(kind).astype(np.float32))


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_the_names_of_older_and_newer_numpys_are_known(core):
    content = pickle.dumps(VECTOR, 2)
    assert content.count(b"cnumpy._core.multiarray\n") == 1
    renamed = content.replace(b"numpy._core", b"numpy." + core)
    np.testing.assert_array_equal(read_pickled_array(renamed), VECTOR)


def test_one_file_of_many_vectors_becomes_a_file_each(convert):
    vectors = {"dev/a.png": VECTOR, "b": -VECTOR}
    np.savez("some.npz", **vectors)
    np.savez_compressed("tight.npz", **vectors)
    save_file(
        {name: values.astype(np.float16) for name, values in vectors.items()}, "some.safetensors"
    )
    make_table({"name": list(vectors), "vector": list(vectors.values())})
    for source in ("some.npz", "tight.npz", "some.safetensors", "some.parquet"):
        code, _, err = convert(source, f"of-{source}")
        assert code == 0, err
        assert list_files(f"of-{source}") == ["b.npy", "dev/a.npy"]
        np.testing.assert_allclose(np.load(f"of-{source}/b.npy"), -VECTOR, atol=1e-3)


def make_table(columns: dict[str, object]) -> None:
    pd.DataFrame(columns).to_parquet("some.parquet")


@pytest.mark.parametrize(
    ("columns", "code", "why"),
    [
        ({"name": ["a", "a"], "vector": [VECTOR, VECTOR]}, 4, "a column of names, each once"),
        ({"name": ["a"], "other": ["b"]}, 4, "got the columns name, other"),
        ({"vector": [VECTOR]}, 4, "got the columns vector"),
        ({"name": ["a"], "vector": [["1", "2"]]}, 4, "some.parquet, a must be a vector"),
        ({"name": ["../a"], "vector": [VECTOR]}, 4, "../a"),
    ],
)
def test_a_table_of_anything_but_names_and_vectors_is_refused(convert, columns, code, why):
    make_table(columns)
    found, _, err = convert("some.parquet")
    assert found == code
    assert why in err
    assert not Path("out").exists()


def test_a_table_needs_pyarrow(convert, monkeypatch):
    make_table({"name": ["a"], "vector": [VECTOR]})
    monkeypatch.setattr(features, "find_spec", lambda _: None)
    code, _, err = convert("some.parquet")
    assert code == 3
    assert "pip install pyarrow" in err


def test_what_is_converted_is_what_a_run_takes(convert, bench):
    folder = write_annotations(Path("data"))
    for name, values in draw_vectors().items():
        pack(f"dev/{name}.pkl", values)
    assert convert("in", folder.parent)[0] == 0
    given = ("-m", "image-only", "-t", "cirr", "--data-root", "data", "-o", "results")
    code, _, err = bench("run", *given, "-b", f"features:{WIDTH}")
    assert code == 0, err
    [record] = read_records(Path("results"))
    assert record.counts.gallery == len(NAMES)


def test_converting_again_leaves_the_same_bytes(convert):
    pack("a.pkl", VECTOR)
    assert convert("in")[0] == 0
    first = Path("out/a.npy").read_bytes()
    assert convert("in")[0] == 0
    assert Path("out/a.npy").read_bytes() == first == to_npy(VECTOR)
    assert list_files() == ["a.npy"]


# Pickles that are something else


class Runs:
    """Its pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


HOSTILE = {
    "a command": Runs(os.system, "touch ran"),
    "a command in a list": [VECTOR, Runs(os.system, "touch ran")],
    "a command in an array": np.array([Runs(os.system, "touch ran")], object),
    "code": Runs(eval, "open('ran', 'w')"),
    "an import": Runs(__import__, "antigravity"),
    "a file of numpy's": Runs(np.load, "ran"),
    "a scalar of numpy's": np.float32(1),
    "a matrix class": VECTOR.view(np.recarray),
    "an object": Runs(object),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_of_anything_else_is_refused_and_nothing_runs(convert, content, protocol):
    pack("dev/a.pkl", content, protocol)
    code, _, err = convert("in")
    assert code == 4, err
    assert "in, dev/a.pkl cannot be read" in err
    assert not Path("ran").exists()
    assert list_files() == []


def test_the_refusal_says_what_the_pickle_asked_for(convert):
    pack("a.pkl", Runs(os.system, "touch ran"))
    err = convert("in")[2]
    assert f"holds more than an array of numbers ({os.system.__module__}.system)" in err
    assert "running it is refused" in err


@pytest.mark.parametrize("encoding", ["zip", "rot13", "utf-16", "os"])
def test_only_numpys_own_way_to_keep_bytes_is_followed(encoding):
    import _codecs

    content = pickle.dumps(Runs(_codecs.encode, "x", encoding), 2)
    with pytest.raises(CorruptData, match="kept as latin1"):
        read_pickled_array(content)


def test_no_change_of_one_byte_makes_the_reader_run_or_hang(monkeypatch):
    """What a changed pickle raises is refused by the converter, whatever it is."""
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("ran"))
    content = pickle.dumps(VECTOR, 4)
    for place in range(len(content)):
        for change in (1, 0x80):
            spoiled = bytearray(content)
            spoiled[place] ^= change
            try:
                found = read_pickled_array(bytes(spoiled))
            except Exception:
                continue
            assert isinstance(found, np.ndarray)


# Vectors that are none


BAD = {
    "whole numbers": (np.arange(WIDTH), "must hold floating-point numbers, got numpy's 'i8'"),
    "objects": (np.array([None]), "must hold floating-point numbers, got numpy's 'O8'"),
    "two axes": (VECTOR[None], "got float32 of the shape (1, 8)"),
    "no number": (VECTOR[:0], "got float32 of the shape (0,)"),
    "not a number": (np.full(WIDTH, np.nan), "must hold finite float32 numbers"),
    "too large": (np.full(WIDTH, 1e300), "must hold finite float32 numbers"),
    "a list": ([1.0, 2.0], "must be a pickle of a numpy array, got a list"),
    "nothing": (b"", "cannot be read (EOFError"),
    "cut short": (pickle.dumps(VECTOR, 4)[:-20], "it may be truncated"),
    "junk": (b"<html>404", "it may be truncated"),
}


@pytest.mark.parametrize(("content", "why"), BAD.values(), ids=BAD)
def test_what_is_no_vector_is_refused_with_its_place(convert, content, why):
    pack("dev/a.pkl", content)
    code, _, err = convert("in")
    assert code == 4, err
    assert "in, dev/a.pkl" in err
    assert why in err
    assert list_files() == []


def test_all_vectors_have_one_width(convert):
    pack("a.pkl", VECTOR)
    pack("b.pkl", VECTOR[:5])
    code, _, err = convert("in")
    assert code == 4
    assert "in, b.pkl: every vector must have the width of the first, 8, got 5" in err


@pytest.mark.parametrize("name", ["../a", "/tmp/a", "dev/../../a", "c:\\a", "x" * 300])
def test_a_name_stays_inside_the_output(convert, name):
    with zipfile.ZipFile("some.npz", "w") as archive:
        archive.writestr(f"{name}.npy", to_npy(VECTOR))
    code, _, err = convert("some.npz")
    assert code == 4, err
    save_file({name: VECTOR}, "some.safetensors")
    code, _, err = convert("some.safetensors")
    assert code == 4, err
    assert sorted(map(str, Path().iterdir())) == ["some.npz", "some.safetensors"]
    assert not Path("../a.npy").exists()


def test_two_names_of_one_file_are_refused(convert):
    save_file({"a.png": VECTOR, "a.jpg": VECTOR}, "some.safetensors")
    code, _, err = convert("some.safetensors")
    assert code == 4
    assert "every name must be a file of its own" in err


def test_an_archive_with_a_pickle_in_it_is_refused(convert):
    np.savez("some.npz", allow_pickle=True, a=np.array([Runs(os.system, "touch ran")], object))
    code, _, err = convert("some.npz")
    assert code == 4
    assert "some.npz, a.npy cannot be read" in err
    assert not Path("ran").exists()


@pytest.mark.parametrize("ending", ["npz", "safetensors", "parquet"])
def test_a_damaged_file_of_many_is_refused(convert, ending):
    np.savez("whole.npz", a=VECTOR)
    save_file({"a": VECTOR}, "whole.safetensors")
    pd.DataFrame({"name": ["a"], "vector": [VECTOR]}).to_parquet("whole.parquet")
    Path(f"some.{ending}").write_bytes(Path(f"whole.{ending}").read_bytes()[:-30])
    code, _, err = convert(f"some.{ending}")
    assert code == 4
    assert f"some.{ending} cannot be read" in err


@pytest.mark.parametrize(
    ("source", "code", "why"),
    [
        ("nowhere", 3, "no folder or file of features at nowhere"),
        ("empty", 3, "no vectors in empty"),
        ("table.csv", 2, "a .safetensors or a .parquet file, got table.csv"),
    ],
)
def test_a_source_that_is_none_says_what_one_is(convert, source, code, why):
    Path("empty").mkdir()
    Path("table.csv").write_bytes(b"a,b\n")
    found, _, err = convert(source)
    assert found == code
    assert why in err


def test_an_output_that_is_no_folder_is_refused(convert):
    pack("a.pkl", VECTOR)
    Path("out").write_bytes(b"mine")
    code, _, err = convert("in")
    assert code == 2
    assert "cannot be written" in err
    assert Path("out").read_bytes() == b"mine"
