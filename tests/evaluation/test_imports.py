"""Vectors, rankings and answers from elsewhere become records, or one clear error."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pyarrow
import pytest
import torch
from circo import make_row, write_circo
from pyarrow import parquet
from safetensors.torch import save_file

from cirbench.benchmark.records.record import read_record, read_records

GALLERY, QUERIES, WIDTH = 12, 7, 5
NAMES = [f"p{i:02}" for i in range(GALLERY)]
IDS = [f"q{i}" for i in range(QUERIES)]
TARGETS = [(i * 5 + 3) % GALLERY for i in range(QUERIES)]
MEMBERS = [
    list(dict.fromkeys((i, TARGETS[i], *((i + step) % GALLERY for step in (6, 7, 9)))))[:4]
    for i in range(QUERIES)
]


@pytest.fixture
def home(tmp_path, monkeypatch, picture):
    """A task of one's own: 7 queries, whose reference is removed, against 12 pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "task" / "pictures").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        (tmp_path / "task" / "pictures" / f"{name}.png").write_bytes(picture(i))
    rows = [
        {
            "id": IDS[i],
            "reference": NAMES[i],
            "text": "changed",
            "target": NAMES[TARGETS[i]],
            "members": [NAMES[row] for row in MEMBERS[i]],
        }
        for i in range(QUERIES)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "task" / "queries.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "task" / "other.jsonl").write_text(text.replace('"id": "q', '"id": "z'), "utf-8")
    (tmp_path / "task" / "task.toml").write_text(
        '[protocol]\nmetrics = ["R@1", "R@3", "R@50", "Rs@1", "Rs@2"]\nheadline = "R@3"\n'
        '[splits.test]\n[splits.val]\nqueries = "other.jsonl"\n',
        encoding="utf-8",
    )
    return tmp_path


@pytest.fixture
def vectors():
    """What a model would give: unit vectors, and the ids in an order of their own."""
    rng = np.random.default_rng(0)

    def draw(count):
        drawn = rng.normal(size=(count, WIDTH)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    return {"gallery": draw(GALLERY), "queries": draw(QUERIES), "text": draw(QUERIES)}


SHUFFLED = np.random.default_rng(1).permutation(GALLERY)


def write_npz(path, vectors, gallery_ids=None, query_ids=IDS, **more):
    content = {**vectors, "gallery": vectors["gallery"][SHUFFLED]}
    ids = [NAMES[i] for i in SHUFFLED] if gallery_ids is None else gallery_ids
    np.savez(path, **content, gallery_ids=np.array(ids), query_ids=np.array(query_ids), **more)


def write_safetensors(path, vectors):
    content = {**vectors, "gallery": vectors["gallery"][SHUFFLED]}
    ids = {"gallery_ids": [NAMES[i] for i in SHUFFLED], "query_ids": IDS}
    said = {name: json.dumps(value) for name, value in ids.items()}
    save_file({k: torch.from_numpy(v).contiguous() for k, v in content.items()}, path, said)


def write_beside(path, vectors):
    """Without metadata, and the ids in a file beside it."""
    content = {k: torch.from_numpy(v).contiguous() for k, v in vectors.items()}
    save_file(content, path)
    path.with_suffix(".json").write_text(json.dumps({"gallery_ids": NAMES, "query_ids": IDS}))


def write_parquet(path, vectors):
    rows = [
        (part, (NAMES if part == "gallery" else IDS)[i], vector.tolist())
        for part, found in vectors.items()
        for i, vector in enumerate(found)
    ]
    rows = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))]
    part, ids, listed = zip(*rows, strict=True)
    vector = pyarrow.array(listed, type=pyarrow.list_(pyarrow.float32()))
    parquet.write_table(pyarrow.table({"part": part, "id": ids, "vector": vector}), path)


def list_ranks(vectors, part="queries"):
    """Each query's gallery rows, best first, without its reference: by sorting all scores."""
    scores = vectors[part].astype(np.float64) @ vectors["gallery"].astype(np.float64).T
    ranked = np.argsort(-scores, axis=1, kind="stable").tolist()
    return [[row for row in rows if row != i] for i, rows in enumerate(ranked)]


def recall(ranks, k, members=False):
    found = 0
    for i, rows in enumerate(ranks):
        among = [row for row in rows if row in MEMBERS[i]] if members else rows
        found += TARGETS[i] in among[:k]
    return 100 * found / QUERIES


def check_metrics(record, ranks):
    for metric, value in record.metrics["average"].items():
        kind, k = metric.split("@")
        assert value.value == pytest.approx(recall(ranks, int(k), kind == "Rs")), metric
    arrays = record.read_per_query()
    assert arrays.first_rank.tolist() == [
        1 + rows.index(TARGETS[i]) for i, rows in enumerate(ranks)
    ]


def run(bench, path, *more):
    return bench("run", "-m", "vectors", "--vectors", path, "-t", "task", "-q", *more)


BY = ("--producer", "a model of mine")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("v.npz", write_npz),
        ("v.safetensors", write_safetensors),
        ("v.safetensors", write_beside),
        ("v.parquet", write_parquet),
    ],
)
def test_vectors_are_ranked_by_their_ids_as_a_full_sort_ranks_them(
    home, bench, vectors, name, write
):
    write(home / name, vectors)
    code, out, err = run(bench, name, *BY)
    assert (code, err) == (0, "")
    assert "vectors (imported) · a model of mine on task (test), imported" in out
    records = {record.cell.method: record for record in read_records(home / "results")}
    assert set(records) == {"vectors", "vectors:text-only"}
    check_metrics(records["vectors"], list_ranks(vectors))
    check_metrics(records["vectors:text-only"], list_ranks(vectors, "text"))
    record = records["vectors"]
    assert record.tier == "imported"
    assert record.imported.normalised
    assert (record.imported.producer, record.imported.kind) == ("a model of mine", "vectors")
    assert name in record.imported.files


def test_the_leaderboard_has_imported_and_measured_rows_on_one_board(home, bench, vectors):
    write_npz(home / "v.npz", vectors)
    assert run(bench, "v.npz", *BY)[0] == 0
    assert bench("run", "-m", "image-text", "-t", "task", "-b", "fake", "-q")[0] == 0
    assert bench("leaderboard")[0] == 0
    text = (home / "results" / "leaderboard.md").read_text(encoding="utf-8")
    assert text.count("## task · test") == 1
    assert "| vectors · a model of mine | imported | – | imported |" in re.sub(" +", " ", text)
    assert "| image-text | zero-shot | – | fake |" in re.sub(" +", " ", text)
    assert bench("verify")[0] == 0
    assert bench("report")[0] == 0


def test_vectors_of_any_length_are_normalised_and_it_is_said(home, bench, vectors):
    write_npz(home / "unit.npz", vectors)
    run(bench, "unit.npz", *BY)
    scaled = {**vectors, "gallery": vectors["gallery"] * np.arange(1, GALLERY + 1)[:, None]}
    write_npz(home / "scaled.npz", scaled)
    code, _, err = bench(
        "import", "scaled.npz", "-t", "task", "--producer", "scaled", "-o", "other"
    )
    assert code == 0
    assert "the vectors of gallery were not of unit length (norms 1 to 12)" in err
    [unit, _] = read_records(home / "results")
    [other, _] = read_records(home / "other")
    assert not other.imported.normalised
    assert "not of unit length" in other.method.remarks[0]
    assert {m: v.value for m, v in other.metrics["average"].items()} == {
        m: v.value for m, v in unit.metrics["average"].items()
    }


def spoil(vectors, part, value):
    changed = vectors[part].copy()
    changed[2] = value
    return {**vectors, part: changed}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            lambda v: (spoil(v, "queries", np.nan), {}),
            4,
            "NaN or infinity in 1 of 7, the first is q2",
        ),
        (lambda v: (spoil(v, "gallery", 0), {}), 4, "a direction, got zeros in 1 of 12"),
        (
            lambda v: ({**v, "queries": v["queries"][:, :3]}, {}),
            4,
            "width of the gallery's, 5, got 3",
        ),
        (
            lambda v: (v, {"gallery_ids": [*NAMES[:-2], "x", "y"]}),
            4,
            "must be the task's 12, got 12, 2 missing (p10, p11); 2 not the task's (x, y)",
        ),
        (lambda v: (v, {"query_ids": [*IDS[:-1], "q0"]}), 4, "every id must be given once, got q0"),
        (lambda v: (v, {"query_ids": IDS[:-1]}), 4, "an id for each of 7 vectors, got 6"),
        (lambda v: ({"gallery": v["gallery"]}, {}), 4, "lacks queries"),
        (
            lambda v: ({**v, "text": np.array([{"a": 1}] * QUERIES, dtype=object)}, {}),
            4,
            "Python objects, which are never read",
        ),
        (
            lambda v: ({**v, "queries": np.ones((QUERIES, WIDTH), dtype=np.int64)}, {}),
            4,
            "must be (N, C) floating-point numbers",
        ),
    ],
)
def test_wrong_vectors_are_named_and_leave_nothing(home, bench, vectors, change, code, message):
    content, ids = change(vectors)
    write_npz(home / "v.npz", content, **ids)
    found, out, err = run(bench, "v.npz", *BY)
    assert (found, message in err) == (code, True), err
    assert not out
    assert not list((home / "results").rglob("*.*"))


def test_pickled_objects_in_a_table_are_refused(home, bench):
    table = {"part": ["gallery"], "id": ["p00"], "vector": [pickle.dumps([1.0])]}
    parquet.write_table(pyarrow.table(table), home / "v.parquet")
    code, _, err = run(bench, "v.parquet", *BY)
    assert code == 4
    assert "vector of lists of numbers, got part (string), id (string), vector (binary)" in err


def test_ten_of_many_wrong_ids_are_named_with_both_counts(home, bench, vectors):
    more = np.concatenate([vectors["gallery"], vectors["gallery"]])
    ids = [f"x{i:02}" for i in range(2 * GALLERY)]
    np.savez(
        home / "v.npz", gallery=more, queries=vectors["queries"], gallery_ids=ids, query_ids=IDS
    )
    _, _, err = run(bench, "v.npz", *BY)
    assert "the ids must be the task's 12, got 24, 12 missing (p00, " in err
    assert "p09 …); 24 not the task's (x00, " in err
    assert "x09 …)" in err
    assert "x10" not in err


def test_a_run_of_vectors_takes_nothing_that_it_would_ignore(home, bench, vectors):
    write_npz(home / "v.npz", vectors)
    for more in (("-b", "fake"), ("-m", "image-only"), ("--limit", "3"), ("--dry-run",)):
        code, _, err = run(bench, "v.npz", *BY, *more)
        assert (code, "vectors are ranked as they are" in err) == (2, True)
    assert bench("run", "-m", "vectors", "-t", "task")[0] == 2
    code, _, err = run(bench, "v.npz")
    assert (code, "must say who or what made it" in err) == (2, True)


def write_run(path, ranks, depth=None, score=lambda rank: 1 / rank):
    lines = [
        f"{IDS[i]} Q0 {NAMES[row]} {rank} {score(rank)} mine"
        for i, rows in enumerate(ranks)
        for rank, row in enumerate(rows[:depth], start=1)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def bench_import(bench, *files, more=()):
    return bench("import", *files, "-t", "task", *BY, "-q", *more)


def test_a_whole_run_scores_as_the_vectors_it_was_made_of(home, bench, vectors):
    ranks = list_ranks(vectors)
    write_run(home / "run.trec", ranks)
    code, _, err = bench_import(bench, "run.trec")
    assert code == 0, err
    [record] = read_records(home / "results")
    check_metrics(record, ranks)
    assert (record.cell.method, record.tier) == ("ranking", "imported")
    assert record.protocol.metrics == ("R@1", "R@3", "R@50", "Rs@1", "Rs@2")
    assert not record.read_per_query().tied.any()


def test_equal_scores_of_a_run_go_by_the_gallery_and_are_counted(home, bench):
    backwards = [[row for row in reversed(range(GALLERY)) if row != i] for i in range(QUERIES)]
    write_run(home / "run.trec", backwards, score=lambda _: 0.5)
    assert bench_import(bench, "run.trec")[0] == 0
    [record] = read_records(home / "results")
    check_metrics(record, [rows[::-1] for rows in backwards])
    assert record.counts.tied_queries == record.counts.fragile_queries == QUERIES


def test_what_answers_are_too_short_for_is_left_out_and_said(home, bench, vectors):
    ranks = list_ranks(vectors)
    write_run(home / "run.trec", ranks, depth=3)
    assert bench_import(bench, "run.trec")[0] == 0
    [record] = read_records(home / "results")
    assert record.protocol.metrics == ("R@1", "R@3")
    assert record.method.remarks[0].endswith("too few for R@50, Rs@1, Rs@2")
    for k in (1, 3):
        assert record.metrics["average"][f"R@{k}"].value == pytest.approx(recall(ranks, k))


def write_answers(home, ranks, depth=3, **said):
    """As a server takes them: CIRCO's, or with `version` and `metric` CIRR's."""
    names = {IDS[i]: [NAMES[row] for row in rows[:depth]] for i, rows in enumerate(ranks)}
    name = f"{said.get('metric', 'circo')}.json"
    (home / name).write_text(json.dumps({**said, **names}), encoding="utf-8")
    return name


def test_cirrs_two_files_give_recall_and_recall_among_members(home, bench, vectors):
    ranks = list_ranks(vectors)
    among = [[row for row in rows if row in MEMBERS[i]] for i, rows in enumerate(ranks)]
    main = write_answers(home, ranks, version="rc2", metric="recall")
    subset = write_answers(home, among, depth=2, version="rc2", metric="recall_subset")
    assert bench_import(bench, main, subset)[0] == 0
    [record] = read_records(home / "results")
    assert record.protocol.metrics == ("R@1", "R@3", "Rs@1", "Rs@2")
    for metric, value in record.metrics["average"].items():
        kind, k = metric.split("@")
        assert value.value == pytest.approx(recall(ranks, int(k), kind == "Rs"))
    assert set(record.imported.files) == {main, subset}
    assert record.imported.kind == "answers"
    wrong = write_answers(home, ranks, depth=2, version="rc2", metric="recall_subset")
    code, _, err = bench_import(bench, main, wrong)
    assert (code, "each answer must be of the members of its query" in err) == (4, True)
    code, _, err = bench_import(bench, subset)
    assert (code, "there must be one file of answers" in err) == (2, True)


@pytest.fixture
def circo(home):
    """CIRCO in small: three queries, 60 images, both splits with the same queries."""
    images = {1000 + i: bytes([i]) for i in range(60)}
    rows = [make_row(0, 1000, 1007), make_row(1, 1001, 1003, gt_img_ids=[1003, 1009])]
    write_circo(home / "data", images, rows)
    return ("-t", "circo", "--data-root", home / "data", *BY, "-q")


def write_circo_answers(home, first, count=50):
    listed = {
        query: [*own, *(1000 + i for i in range(60) if 1000 + i not in own)][:count]
        for query, own in first.items()
    }
    (home / "circo.json").write_text(json.dumps(listed), encoding="utf-8")


def test_circos_answers_are_scored_as_its_server_does(home, bench, circo):
    write_circo_answers(home, {"0": [1040, 1007], "1": [1009, 1041, 1042, 1003]})
    code, _, err = bench("import", "circo.json", *circo)
    assert code == 0, err
    [record] = read_records(home / "results")
    # AP@5: the first query's is 1/2 of 1, the second's (1/1 + 2/4) of 2
    assert record.metrics["all"]["mAP@5"].value == pytest.approx(100 * (1 / 2 + 3 / 4) / 2)
    assert record.metrics["all"]["target R@5"].value == 100
    assert record.counts.gallery == 60


def test_answers_to_a_split_without_labels_are_kept_without_metrics(home, bench, circo):
    write_circo_answers(home, {"0": [1040], "1": [1009]})
    code, out, _ = bench("import", "circo.json", *circo, "--split", "test")
    assert code == 0
    record = read_record(home / out.strip().removeprefix("record: "))
    assert not record.metrics
    assert record.read_per_query().top[0, :2].tolist() == [40, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("q6"),
            "queries of test: the ids must be the task's 7, got 6, 1 missing (q6)",
        ),
        (lambda a: a.update(x=["p01"]), "got 8, 1 not the task's (x)"),
        (
            lambda a: a["q3"].append("dog"),
            "of its gallery, got 1 foreign (dog); the gallery has 12",
        ),
        (lambda a: a["q3"].append(a["q3"][0]), "query q3: "),
        (lambda a: a["q3"].append("p03"), "query q3: its own reference, p03, must not be answered"),
    ],
)
def test_wrong_answers_are_named_and_leave_nothing(home, bench, vectors, change, message):
    path = home / write_answers(home, list_ranks(vectors))
    answers = json.loads(path.read_text(encoding="utf-8"))
    change(answers)
    path.write_text(json.dumps(answers), encoding="utf-8")
    code, _, err = bench_import(bench, path)
    assert (code, message in err) == (4, True), err
    assert not list((home / "results").rglob("*.*"))


def test_a_file_for_another_split_is_told(home, bench, vectors):
    path = home / write_answers(home, list_ranks(vectors))
    path.write_text(path.read_text(encoding="utf-8").replace('"q', '"z'), encoding="utf-8")
    code, _, err = bench_import(bench, path)
    assert code == 4
    assert "these are the queries of the split val: --split val" in err
    assert bench_import(bench, path, more=("--split", "val"))[0] == 0


def test_answers_too_short_for_any_metric_are_refused(home, bench, vectors):
    path = home / write_answers(home, list_ranks(vectors), depth=0)
    code, _, err = bench_import(bench, path)
    assert (code, "too few for any metric" in err) == (2, True)


def test_answers_need_no_pictures_and_say_so(home, bench, vectors):
    path = home / write_answers(home, list_ranks(vectors))
    names = "\n".join(NAMES)
    (home / "task" / "gallery.txt").write_text(names, encoding="utf-8")
    task = home / "task" / "task.toml"
    said = task.read_text(encoding="utf-8")
    task.write_text(
        said.replace("[splits.test]", '[splits.test]\ngallery = "gallery.txt"'), encoding="utf-8"
    )
    for name in NAMES[1:]:
        (home / "task" / "pictures" / f"{name}.png").unlink()
    assert bench_import(bench, path)[0] == 0
    [record] = read_records(home / "results")
    assert any("known by its names alone" in remark for remark in record.method.remarks)
