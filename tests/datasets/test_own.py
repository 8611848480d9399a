"""A task from files: layouts, archives, what is wrong in them, and the way to a record."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from typing import ClassVar

import pyarrow
import pytest
from pyarrow import parquet

import cirbench
from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.api.values import Query, TaskData
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.training.selection import find_supervision
from cirbench.benchmark.training.texts import find_training_texts
from cirbench.datasets.own.pictures import open_pictures
from cirbench.slurm.sweep.sweep_file import read_sweep
from cirbench.testing import check_task

NAMES = [f"p{i}" for i in range(6)]
ROWS = [("p0", "is larger", "p3"), ("p4", "is red", "p1"), ("p2", "is red", "p5")]


@pytest.fixture
def home(tmp_path, monkeypatch, picture):
    """A folder with six pictures, p0 to p5, in which a person works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate(NAMES):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(picture(i))
    return tmp_path


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_task(home, text="", rows=None):
    """A task of JSON Lines; gives its name for a person."""
    if rows is None:
        rows = [{"reference": r, "text": t, "target": a} for r, t, a in ROWS]
    write_lines(home / "queries.jsonl", rows)
    (home / "task.toml").write_text(text, encoding="utf-8")
    return str(home)


def load(name, split="test"):
    task = find_task(name)()
    [protocol] = task.protocols.values()
    return task.load(protocol=protocol, split=split, data_root=None)


def show(data):
    """Each query by names: reference, text, positives."""
    ids = [ref.id for ref in data.gallery]
    return [
        (q.reference.id, q.fields["text"], *(ids[row] for row in q.positives)) for q in data.queries
    ]


def as_csv(home):
    with (home / "queries.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("reference", "text", "target"), *ROWS])


def as_lines(home):
    write_lines(
        home / "queries.jsonl",
        [{"reference": r, "text": t, "targets": [f"{a}.png"]} for r, t, a in ROWS],
    )


def as_cirr(home):
    rows = [
        {"pairid": 7 + i, "reference": r, "caption": t, "target_hard": a, "target_soft": {a: 1.0}}
        for i, (r, t, a) in enumerate(ROWS)
    ]
    (home / "queries.json").write_text(json.dumps(rows), encoding="utf-8")


def as_fashion_iq(home):
    rows = [{"candidate": r, "captions": [t], "target": a} for r, t, a in ROWS]
    (home / "queries.json").write_text(json.dumps(rows), encoding="utf-8")


def as_cirr_tables(home, *, references=False):
    """`royokong/cirr_val` and `cirr_imgs`, or without candidate_id as `fashioniq_val` is."""
    content = {name: (home / "pictures" / f"{name}.png").read_bytes() for name in NAMES}
    images = pyarrow.table(
        {"id": NAMES, "img": [{"bytes": content[name], "path": None} for name in NAMES]}
    )
    parquet.write_table(images, home / "pictures.parquet", row_group_size=2)
    columns = {
        "candidate": [{"bytes": content[r], "path": None} for r, _, _ in ROWS],
        "candidate_id": [r for r, _, _ in ROWS],
        "caption": [t for _, t, _ in ROWS],
        "target_id": [a for _, _, a in ROWS],
        "pairid": [1, 2, 3],
    }
    if references:
        del columns["candidate_id"]
    parquet.write_table(pyarrow.table(columns), home / "queries.parquet")
    shutil.rmtree(home / "pictures")


@pytest.mark.parametrize("write", [as_csv, as_lines, as_cirr, as_fashion_iq, as_cirr_tables])
def test_every_layout_gives_the_same_queries_and_pictures(home, picture, write):
    write(home)
    data = load(".")
    assert show(data) == ROWS
    assert [query.removed for query in data.queries] == [0, 4, 2]
    assert [(ref.id, ref.read()) for ref in data.gallery] == [
        (name, picture(i)) for i, name in enumerate(NAMES)
    ]
    assert len({query.id for query in data.queries}) == 3
    assert not data.missing
    check_task(find_task(".")())


def test_references_that_are_in_their_rows_alone_are_named_by_their_content(home, picture):
    as_cirr_tables(home, references=True)
    data = load(".")
    assert [query.reference.read() for query in data.queries] == [picture(i) for i in (0, 4, 2)]
    assert [query.removed for query in data.queries] == [None, None, None]
    assert "3 of 3 queries have a reference that is not in their gallery" in data.remarks[0]


def test_tables_of_mteb_are_joined(home, picture):
    def write(name, **columns):
        (home / name).mkdir()
        parquet.write_table(pyarrow.table(columns), home / name / "test-0.parquet")

    image = [{"bytes": picture(i), "path": None} for i in range(6)]
    write("corpus", id=[f"c{i}" for i in range(6)], image=image)
    write("queries", id=["q1", "q2"], text=["is red", "is blue"], image=image[:2])
    write(
        "qrels",
        **{
            "query-id": ["q2", "q1", "q1", "q1"],
            "corpus-id": ["c5", "c3", "c4", "c0"],
            "score": [1, 1, 1, 0],
        },
    )
    data = load(".")
    assert [row[1:] for row in show(data)] == [("is red", "c3", "c4"), ("is blue", "c5")]
    assert [query.id for query in data.queries] == ["q1", "q2"]


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_an_archive_holds_the_same_pictures_as_its_folder(home, ending):
    folder = open_pictures(home / "pictures")
    archive = home / f"pictures.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in NAMES:
                packed.write(home / "pictures" / f"{name}.png", f"{name}.png")
    else:
        with tarfile.open(archive, "w") as packed:
            for name in NAMES:
                packed.add(home / "pictures" / f"{name}.png", f"./{name}.png")
    packed = open_pictures(archive)
    assert {name: ref.read() for name, ref in packed.refs.items()} == {
        name: ref.read() for name, ref in folder.refs.items()
    }


def test_a_task_from_files_scores_as_the_same_task_in_python(home):
    """The same embeddings, protocol and rows, read by another class."""
    name = write_task(home, '[protocol]\nmetrics = ["R@1", "R@3"]\n')
    ours = find_task(name)()
    [protocol] = ours.protocols.values()

    class Twin(cirbench.Task):
        name = "twin"
        splits = ("test",)
        default_backbone = "fake"
        protocols: ClassVar = {"own": protocol}

        def load(self, *, protocol, split, data_root):
            gallery = tuple(
                cirbench.ImageRef(id=path.stem, read=path.read_bytes, path=path)
                for path in sorted((home / "pictures").iterdir())
            )
            queries = tuple(
                Query(
                    id=str(i),
                    reference=gallery[int(r[1])],
                    positives=(int(a[1]),),
                    fields={"text": t},
                    removed=int(r[1]),
                )
                for i, (r, t, a) in enumerate(ROWS)
            )
            return TaskData(gallery=gallery, queries=queries, annotations={})

    [mine] = cirbench.evaluate("image-text", name, backbone="fake")
    [twin] = cirbench.evaluate("image-text", Twin(), backbone="fake")
    assert mine.metrics == twin.metrics
    assert mine.protocol.hash == protocol.hash == twin.protocol.hash
    assert mine.cell.task == home.name
    assert mine.fingerprints.gallery == twin.fingerprints.gallery


def test_the_file_decides_protocol_name_and_texts(home):
    name = write_task(home)
    [plain] = find_task(name).protocols.values()
    changed = '[protocol]\nreference_removed = false\n[protocol.templates]\ntext = "find: {text}"\n'
    write_task(home, f'name = "mine"\n{changed}')
    [protocol] = find_task(name).protocols.values()
    assert (protocol.name, protocol.reference_removed) == ("mine", False)
    assert protocol.text("text", "all", {"text": "x"}) == "find: x"
    assert protocol.text("pseudo-word", "all", {"text": "x"}) == "a photo of * , x"
    assert plain.hash != protocol.hash
    assert [query.removed for query in load(name).queries] == [None, None, None]


def test_groups_targets_members_and_further_columns_are_taken(home):
    row = {
        "id": 7,
        "reference": "p0",
        "text": "",
        "target": "p3",
        "targets": ["p1", "p3"],
        "group": "dogs",
        "members": ["p0", "p1", "p3", "p4"],
        "season": "spring",
    }
    text = (
        'fields = ["season"]\n[protocol]\nmetrics = ["R@1", "Rs@1", "target R@5"]\n'
        '[protocol.templates]\ntext = "in {season}"\n'
    )
    data = load(write_task(home, text, [row]))
    [query] = data.queries
    assert (query.id, query.group, query.positives, query.target) == ("7", "dogs", (1, 3), 3)
    assert query.members == (1, 3, 4)
    assert query.fields == {"text": "", "season": "spring"}
    assert "have an empty text: 7" in data.remarks[0]


def test_groups_may_have_galleries_of_their_own(home):
    for group, rows, names in (("a", ROWS[:1], "p0 p3"), ("b", ROWS[1:], "p5 p1 p4 p2 p0")):
        write_lines(
            home / f"{group}.jsonl",
            [{"reference": r, "text": t, "target": x} for r, t, x in rows],
        )
        (home / f"{group}.txt").write_text(names.replace(" ", "\n"), encoding="utf-8")
    name = write_task(
        home,
        '[splits.test]\nqueries = {a = "a.jsonl", b = "b.jsonl"}\n'
        'gallery = {a = "a.txt", b = "b.txt"}\n',
    )
    data = load(name)
    assert [ref.id for ref in data.gallery] == ["p0", "p3", "p5", "p1", "p4", "p2", "p0"]
    assert data.spans == {"a": range(2), "b": range(2, 7)}
    assert show(data) == ROWS
    assert [query.id for query in data.queries] == ["a/1", "b/1", "b/2"]
    check_task(find_task(name)())
    (home / "b.txt").write_text("p5\np4\np2\n", encoding="utf-8")
    with pytest.raises(CorruptData, match=r"b\.jsonl, line 1: p1 must be in the gallery, .*b\.txt"):
        load(name)


def test_cirrs_map_of_paths_names_the_gallery(home):
    (home / "pictures" / "dev").mkdir()
    for name in NAMES:
        (home / "pictures" / f"{name}.png").rename(home / "pictures" / "dev" / f"{name}.png")
    paths = {name: f"./dev/{name}.png" for name in reversed(NAMES)}
    (home / "split.json").write_text(json.dumps(paths), encoding="utf-8")
    data = load(write_task(home, '[splits.val]\ngallery = "split.json"\n'), "val")
    assert [ref.id for ref in data.gallery] == NAMES[::-1]
    assert show(data) == ROWS


def test_training_sees_what_the_file_names(home):
    train = '[splits.val]\n[train]\nqueries = "queries.jsonl"\n'
    name = write_task(home, train)
    found = find_supervision(name, None)
    assert [(t.reference.id, t.captions, t.target.id) for t in found["triplets"]] == [
        (r, (t,), a) for r, t, a in ROWS
    ]
    assert (found["trained_on"], found["selection"].split) == (home.name, "val")
    pictures, label = find_training_images(name)
    assert ({ref.id for ref in pictures}, label) == (set(NAMES), home.name)
    (home / "more").mkdir()
    shutil.copy(home / "pictures" / "p2.png", home / "more" / "other.png")
    write_task(home, f'{train}pictures = "more"\n')
    assert [ref.id for ref in find_training_images(name)[0]] == ["other"]
    with pytest.raises(MissingData, match="6 training images are missing"):
        find_supervision(name, None)
    write_task(home, "[splits.val]\n")
    with pytest.raises(UsageError, match="must have triplets"):
        find_supervision(name, None)
    with pytest.raises(UsageError, match="has no captions"):
        find_training_texts(str(home / "task.toml"))
    (home / "sweep.toml").write_text('methods = ["image-only"]\ntasks = ["task.toml"]\n', "utf-8")
    _, errors = read_sweep(str(home / "sweep.toml"))
    assert errors.found[0].endswith("got 'task.toml'")


def test_missing_pictures_are_named_and_nothing_is_left_out(home, bench):
    name = write_task(home)
    (home / "pictures" / "p3.png").unlink()
    (home / "pictures" / "p4.png").unlink()
    data = load(name)
    assert set(data.missing) == {"p3", "p4"}
    assert show(data) == ROWS
    code, out, _ = bench("data", "check", name)
    assert code == 3
    assert f"missing: p3 ({home / 'pictures' / 'p3'}" in out
    code, _, err = bench("run", "-m", "image-only", "-t", name, "-b", "fake", "-q")
    assert code == 3
    assert "2 of 6 pictures" in err
    assert not list(home.glob("results/*/*"))


GOOD = {"reference": "p0", "text": "x", "target": "p1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "targex": "p1"}, "unknown field `targex`; did you mean target"),
        ({"reference": "p0", "text": "x"}, "`target` must be a text, got none"),
        ({**GOOD, "text": 3}, "`text` must be a text, got 3"),
        ({**GOOD, "targets": "p1"}, "`targets` must be a list, got 'p1'"),
        ({**GOOD, "targets": ["p1", 2]}, "`targets` must list names of pictures"),
        ({**GOOD, "targets": ["p2"]}, "`targets` must name `target`, 'p1', too"),
        ({"reference": "p0", "text": "x", "targets": ["p1", "p1"]}, "name each picture once"),
        ({**GOOD, "members": ["p1", "p2", "p1.png"]}, "the members must name each picture once"),
        ({**GOOD, "target": "p0"}, "another picture than the reference"),
        ({**GOOD, "target": "../p0"}, "must stay inside its folder"),
        ({**GOOD, "members": ["p0", "p2"]}, "`members` must name the targets, too"),
        ({**GOOD, "id": "1"}, "each query must have an id of its own, got '1' as in"),
        (["p0"], "must be an object"),
    ],
)
def test_a_wrong_row_is_named_with_its_line_and_field(home, row, message):
    name = write_task(home, rows=[{**GOOD, "id": "1"}, row])
    with pytest.raises(CorruptData) as caught:
        load(name)
    assert "queries.jsonl, line 2: " in str(caught.value).replace(" must be an object", ": ")
    assert message in str(caught.value)


def test_a_wrong_csv_file_and_wrong_json_are_named(home):
    (home / "queries.csv").write_text("reference,text\np0,x\n", encoding="utf-8")
    with pytest.raises(CorruptData, match=r"queries\.csv, row 1: `target` must be a text"):
        load(".")
    (home / "queries.csv").write_text("reference,text,target,where\np0,x,p1,y\n", encoding="utf-8")
    with pytest.raises(CorruptData, match=r"row 1: unknown field `where`.*fields = \['where'\]"):
        load(".")
    (home / "queries.jsonl").write_text('{"reference": "p0"\n', encoding="utf-8")
    with pytest.raises(CorruptData, match=r"queries\.jsonl, line 1 is not valid JSON"):
        load(".")
    (home / "queries.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(MissingData, match="no queries in"):
        load(".")


def test_csv_lists_targets_between_bars(home):
    (home / "queries.csv").write_text(
        "reference,text,targets,members\np0,x,p1 | p2,\np1,y,p2,\n", encoding="utf-8"
    )
    assert show(load(".")) == [("p0", "x", "p1", "p2"), ("p1", "y", "p2")]


def test_all_mistakes_of_the_file_are_told_at_once(home):
    write_task(
        home, 'name = "emoji"\nbackbon = "fake"\n[protocol]\nheadline = "R@7"\n[splits]\nx = 1\n'
    )
    with pytest.raises(UsageError) as caught:
        find_task(str(home))
    for part in ("'emoji'", "unknown key 'backbon'", "got 'R@7'", "splits.x must be a table"):
        assert part in str(caught.value)
    (home / "task.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(UsageError, match="is not valid TOML"):
        find_task(str(home))
    with pytest.raises(MissingData, match=r"no task at nothing\.toml; bench new task writes one"):
        find_task("nothing.toml")
    with pytest.raises(UsageError, match="did you mean emoji"):
        find_task("emojis")


@pytest.mark.parametrize("metric", ["Rs@1", "target R@1"])
def test_a_metric_needs_what_it_measures(home, metric):
    rows = [{"reference": "p0", "text": "x", "targets": ["p1"]}]
    name = write_task(home, f'[protocol]\nmetrics = ["R@1", "{metric}"]\n', rows)
    with pytest.raises(CorruptData, match=f"line 1: {metric} needs"):
        load(name)


def test_a_template_of_an_unknown_field_is_refused_before_any_work(home):
    name = write_task(home, '[protocol.templates]\ntext = "{colour}"\n')
    with pytest.raises(UsageError, match="wants colour"):
        load(name)


def test_two_pictures_of_one_name_are_refused(home):
    shutil.copy(home / "pictures" / "p1.png", home / "pictures" / "p1.jpg")
    with pytest.raises(CorruptData, match="two that are called p1"):
        load(write_task(home))


class Bomb:
    """Unpickling it would leave a file."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def test_pickled_objects_in_a_table_are_refused_and_never_run(home, bench):
    as_csv(home)
    table = pyarrow.table({"id": NAMES, "img": [pickle.dumps(Bomb())] * 6})
    shutil.rmtree(home / "pictures")
    parquet.write_table(table, home / "pictures.parquet")
    code, out, _ = bench("data", "check", ".", "--deep", "-q")
    assert code == 4
    assert "unreadable: p0" in out
    parquet.write_table(table.rename_columns(["id", "object"]), home / "pictures.parquet")
    code, out, _ = bench("data", "check", ".", "-q")
    assert code == 4
    assert "one of encoded pictures, img or image, got id, object" in out
    assert not (home / "unpickled").exists()


def test_a_damaged_table_is_named(home):
    as_csv(home)
    (home / "pictures.parquet").write_bytes(b"PAR1 and no more")
    shutil.rmtree(home / "pictures")
    with pytest.raises(CorruptData, match=r"pictures\.parquet cannot be read"):
        load(".")


def test_an_arrow_file_of_save_to_disk_is_read(home, picture):
    as_csv(home)
    shutil.rmtree(home / "pictures")
    (home / "images").mkdir()
    table = pyarrow.table(
        {"id": NAMES, "image": [{"bytes": picture(i), "path": ""} for i in range(6)]}
    )
    with pyarrow.ipc.new_stream(str(home / "images" / "data-0.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    data = load(".")
    assert [ref.read() for ref in data.gallery] == [picture(i) for i in range(6)]


def test_from_a_folder_of_pictures_to_a_row_of_the_leaderboard(home, bench):
    assert bench("new", "task", "mine", "--pictures", "pictures")[0] == 0
    assert bench("data", "check", "mine.toml")[0] == 0
    run = ("run", "-m", "image-only", "-m", "image-text", "-t", "mine.toml", "-b", "fake", "-q")
    code, out, _ = bench(*run)
    assert code == 0
    assert "mine, protocol mine" in out
    code, out, _ = bench("leaderboard")
    assert code == 0
    assert "mine · test · protocol mine v1" in (home / "results/leaderboard.md").read_text("utf-8")
    assert bench("report")[0] == 0
    assert bench("info", "mine.toml")[0] == bench("check", "mine.toml")[0] == 0
    code, _, err = bench("new", "task", "mine", "--pictures", "pictures")
    assert (code, "mine.toml exists" in err) == (2, True)


def test_where_prints_the_files_of_a_task_without_a_data_root(home, bench):
    _, out, _ = bench("data", "where", write_task(home))
    assert f"queries of test: {home / 'queries.jsonl'}" in out
    assert "MISSING" not in out


def test_a_zip_that_climbs_is_refused(home):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("../p0.png", b"x")
    (home / "pictures.zip").write_bytes(content.getvalue())
    with pytest.raises(CorruptData, match="must stay inside its folder"):
        open_pictures(home / "pictures.zip")
