"""Strangers' tables of training pictures: every row is taken, or refused with its number."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cirbench.benchmark.images.reading import read_image_table
from cirbench.benchmark.runtime.errors import CirbenchError

CAPTIONS = [
    "a dog",
    'the "best" one',
    "a, b; c",
    '"quoted" at first',
    "it's",
    '5" nails',
    '"',
    "ä*",
]
ROWS = [(caption, f"{i}.png") for i, caption in enumerate(CAPTIONS)]
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TRAIN = ("train", "pic2word", "-b", "fake", "--epochs", 1, "-o", "m.safetensors")


def write(name: str, rows, *, bom: bool = False, encoding: str = "utf-8") -> str:
    """A table as csv writes it, where its name ends so; else the fields between tabs."""
    buffer = io.StringIO(newline="")
    if name.endswith(".csv"):
        csv.writer(buffer, lineterminator="\n").writerows(rows)
    else:
        buffer.writelines("\t".join(row) + "\n" for row in rows)
    content = buffer.getvalue().encode(encoding)
    Path(name).write_bytes(b"\xef\xbb\xbf" * bom + content)
    return name


@pytest.fixture
def pictures(bench, picture):
    for i in range(len(ROWS)):
        Path(f"{i}.png").write_bytes(picture(i))


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("bom", [False, True], ids=["", "bom"])
@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.txt", "T.CSV"])
def test_a_quote_at_a_captions_begin_swallows_no_row(bench, name, bom):
    write(name, [("title", "filepath"), *ROWS], bom=bom)
    if name == "T.CSV":
        Path(name).write_text(
            "title,filepath\n" + "\n".join(f"x,{i}.png" for i in range(8)), encoding="utf-8"
        )
    code, _, err = bench(*TRAIN, "--images", name, "--batch-size", 8)
    assert code == 0, err
    assert "on 8 pictures" in err


BROKEN = {
    "quotes that csv does not know": (
        "t.csv",
        'title,filepath\na,0.png\n"b,1.png\nc,2.png\n"d,3.png\n',
        "row 2 is not valid CSV",
    ),
    "a quote that never ends": (
        "t.csv",
        'title,filepath\na,0.png\n"b,1.png\nc,2.png\n',
        "row 2 is not valid CSV",
    ),
    "text behind a quote": (
        "t.csv",
        'title,filepath\n"best" dog,0.png\n',
        "row 1 is not valid CSV",
    ),
    "a field too few": (
        "t.tsv",
        "title\tfilepath\na\t0.png\nb\n",
        "row 2 (line 3) must have 2 fields like its header, got 1",
    ),
    "a field too many": (
        "t.tsv",
        "title\tfilepath\na\tb\t0.png\n",
        "must have 2 fields like its header, got 3",
    ),
    "an unquoted comma": (
        "t.csv",
        "title,filepath\na, b,0.png\n",
        "row 1 (line 2) must have 2 fields",
    ),
    "a carriage return in a field": (
        "t.tsv",
        "title\tfilepath\na\rb\t0.png\n",
        "row 1 (line 2) must have 2 fields",
    ),
    "no path": (
        "t.tsv",
        "title\tfilepath\na\t0.png\nb\t\n",
        "row 2, `filepath`: a path must be a non-empty name",
    ),
    "a nul in a path": (
        "t.tsv",
        "title\tfilepath\na\t0\0.png\n",
        "row 1, `filepath`: a path must be",
    ),
    "a path too long": ("t.tsv", f"title\tfilepath\na\t{'x' * 300}.png\n", "each name in it 255"),
    "another column": ("t.tsv", "title\turl\na\t0.png\n", "has no column `filepath`"),
    "a column twice": ("t.tsv", "filepath\tfilepath\n0.png\t1.png\n", "has 2 columns `filepath`"),
    "commas between tabs": ("t.tsv", "title,filepath\na,0.png\n", "has no column `filepath`"),
    "header only": ("t.tsv", "title\tfilepath\n", "lists no pictures"),
    "empty": ("t.tsv", "", "its header is empty"),
    "latin-1": ("t.tsv", b"title\tfilepath\nb\xe4r\t0.png\n", "must be a table in UTF-8"),
    "utf-16": ("t.csv", "title,filepath\na,0.png\n".encode("utf-16"), "must be a table in UTF-8"),
    "a field without end": (
        "t.tsv",
        f"title\tfilepath\n{'x' * 200_000}\t0.png\n",
        "row 1 is not valid CSV (field",
    ),
}


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(("name", "content", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_refused_with_its_row(refused, name, content, says):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(4, *TRAIN, "--images", name, "--batch-size", 2, says=(name, says))


@pytest.mark.usefixtures("pictures")
def test_rows_of_a_csv_that_a_lost_quote_could_bind_together_are_said(bench):
    lines = ["title,filepath", *(f"x,{i}.png" for i in range(6)), '"a dog', 'a cat",6.png']
    Path("t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, _, err = bench(*TRAIN, "--images", "t.csv", "--batch-size", 7)
    assert code == 0, err
    assert "t.csv: 1 of 7 rows span several lines, the first is row 7" in err


@pytest.mark.parametrize("separator", [";;", "\n", '"'])
def test_a_separator_is_one_character(refused, separator):
    write("t.csv", [("title", "filepath"), *ROWS])
    says = "the separator must be one character"
    refused(2, *TRAIN, "--images", "t.csv", "--separator", separator, says=says)


@pytest.mark.parametrize("features", [(), ("--cache-features",)], ids=["", "cached"])
def test_a_pipe_that_a_table_names_is_not_waited_for(refused, features, pictures):
    os.mkfifo("f.png")
    table = write("t.tsv", [("title", "filepath"), *ROWS, ("a pipe", "f.png")])
    says = "got 1 of 9"
    refused(3, *TRAIN, "--images", table, "--batch-size", 9, *features, says=says)


def test_a_picture_that_a_table_names_and_that_is_not_there_is_missing_data(refused):
    write("t.tsv", [("title", "filepath"), ("a", "gone.png"), ("b", "gone.png")])
    refused(
        3, *TRAIN, "--images", "t.tsv", "--batch-size", 2, says="of the pictures may fail to decode"
    )


fields = st.text(st.characters(exclude_characters="\t\r\n\0", codec="utf-8"), max_size=9)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(captions=st.lists(fields, min_size=1, max_size=9), bom=st.booleans(), end=st.booleans())
def test_any_captions_between_tabs_keep_all_rows(tmp_path, captions, bom, end):
    lines = ["title\tfilepath", *(f"{text}\t{i}.png" for i, text in enumerate(captions))]
    content = "\n".join(lines) + "\n" * end
    (tmp_path / "t.tsv").write_text(content, encoding="utf-8-sig" if bom else "utf-8", newline="")
    refs = read_image_table(tmp_path / "t.tsv")
    assert [ref.id for ref in refs] == [f"{i}.png" for i in range(len(captions))]


anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(captions=st.lists(anything, min_size=1, max_size=9))
def test_any_captions_that_csv_wrote_keep_all_rows(tmp_path, captions):
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(text, f"{i}.png") for i, text in enumerate(captions)]
        csv.writer(file).writerows([("title", "filepath"), *rows])
    refs = read_image_table(tmp_path / "t.csv")
    assert [ref.id for ref in refs] == [f"{i}.png" for i in range(len(captions))]


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=80), name=st.sampled_from(["t.tsv", "t.csv"]))
def test_any_bytes_are_refused_or_have_a_row_for_each_line(tmp_path, content, name):
    (tmp_path / name).write_bytes(b"title,filepath\tfilepath\n" + content)
    try:
        refs = read_image_table(tmp_path / name)
    except CirbenchError:
        return
    lines = content.decode().replace("\r", "\n").split("\n")
    assert len(refs) == len(list(filter(None, lines)))
