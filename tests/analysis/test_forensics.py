"""What is told of answer files: made ones, in which every fault was put by hand."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
from places import RESULTS

from cirbench.benchmark.analysis.forensics import Split, audit_answers, find_split
from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.data.answers import read_answers
from cirbench.benchmark.records.record import read_records
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError

NAMES = [f"{i:06}" for i in range(80)]
REFS = tuple(ImageRef(id=name, read=bytes) for name in NAMES)
OUTSIDE = ImageRef(id="outside", read=bytes)


def make_split(name, first, count):
    """Queries `first`, `first` + 1, … whose reference is the image of that number."""
    queries = tuple(
        Query(
            id=str(i),
            reference=REFS[i] if i % 10 else OUTSIDE,
            positives=(),
            members=tuple(range(60, 65)),
        )
        for i in range(first, first + count)
    )
    return Split(name=name, data=TaskData(gallery=REFS, queries=queries, annotations={}))


VAL, TEST = make_split("val", 0, 20), make_split("test", 0, 40)


class Shapes:
    """A task of two splits; one protocol keeps the reference, one removes it."""

    name = "shapes"
    splits = ("val", "test", "gone")
    protocols = {  # noqa: RUF012  # as a task has it
        "keeps": SimpleNamespace(reference_removed=False),
        "removes": SimpleNamespace(reference_removed=True),
    }

    def load(self, *, protocol, split, data_root):
        if split == "gone":
            raise MissingData("no data of the split gone")
        return {"val": VAL, "test": TEST}[split].data


def shuffle(seed, but=()):
    names = [name for name in NAMES if name not in but]
    random.Random(seed).shuffle(names)
    return names


def clean(split=VAL, reference_at=None):
    """50 names a query, with the reference at a rank, or nowhere."""
    found = {}
    for query in split.data.queries:
        names = shuffle(query.id, but=[query.reference.id])
        if reference_at and query.reference.id in NAMES:
            names.insert(reference_at - 1, query.reference.id)
        found[query.id] = names[:50]
    return found


def write(path, content, **beside):
    text = content if isinstance(content, str) else json.dumps({**beside, **content})
    path.write_text(text, encoding="utf-8")
    return read_answers(path)


def audit(found, split=VAL, **more):
    return audit_answers(found, Shapes(), split, {}, **more)


def test_a_clean_file_of_numbers_without_padding_has_no_fault(tmp_path):
    numbers = {query: list(map(int, names)) for query, names in clean().items()}
    told = audit(write(tmp_path / "circo.json", numbers))
    assert (told.kind, told.queries, told.answered, told.lengths) == ("CIRCO", 20, 20, {50: 20})
    for part in (told.missing, told.unknown, told.duplicates, told.foreign):
        assert part.count == 0
    assert told.ties is None
    assert told.reference.in_gallery == 18
    assert told.reference.listed == 0
    assert "removed" in told.conclusions[0]
    assert "0 of 18 answers" in told.conclusions[0]
    assert "keeps it (keeps here)" in told.conclusions[0]
    assert "at most 15 %" in told.conclusions[0]  # 1 - 0.05 ** (1 / 18)


@pytest.mark.parametrize("rank", [1, 4, 50])
def test_a_reference_that_was_ranked_is_found_at_its_rank(tmp_path, rank):
    told = audit(write(tmp_path / "a.json", clean(reference_at=rank)))
    found = told.reference
    assert (found.listed, found.in_gallery, found.median_rank) == (18, 18, rank)
    assert found.within == {k: 18 * (rank <= k) for k in (1, 5, 10, 50)}
    assert told.conclusions[0].startswith("The reference was ranked, not removed: 18 of 18")
    assert "removes it (removes here)" in told.conclusions[0]


def test_every_fault_is_counted_and_named(tmp_path):
    answers = clean()
    del answers["3"]
    answers["new"] = answers["4"]
    answers["5"][7] = answers["5"][8]
    answers["6"][0], answers["7"][0] = "stranger", "stranger"
    answers["8"] = answers["8"][:30]
    told = audit(write(tmp_path / "a.json", answers, version="rc2", metric="recall"))
    assert told.kind == "CIRR recall"
    assert (told.missing.first, told.unknown.first) == (("3",), ("new",))
    assert told.duplicates.first == ("5",)
    assert (told.foreign.first, told.foreign_names.first) == (("6", "7"), ("stranger",))
    assert told.lengths == {30: 1, 50: 18}


def test_a_subset_file_is_held_against_the_main_one(tmp_path):
    answers, members = clean(), NAMES[60:65]
    subset = {
        query: sorted(members, key=lambda m, own=names: own.index(m) if m in own else 99)[:3]
        for query, names in answers.items()
    }
    listed = {q: [m for m in subset[q] if m in answers[q]] for q in subset}
    assert all(listed.values())
    subset["1"][2] = "000001"  # its reference, which is no member
    turned = [q for q in subset if len(listed[q]) > 1 and q != "1"][:2]
    for query in turned:
        subset[query][:2] = subset[query][1::-1]
    main = write(tmp_path / "recall.json", answers, version="rc2", metric="recall")
    theirs = write(tmp_path / "subset.json", subset, version="rc2", metric="recall_subset")
    told = audit(main, subset=theirs).subset
    assert told.foreign.first == ("1",)
    assert set(turned) <= set(told.otherwise_ordered.first) <= {*turned, "1"}
    assert (told.queries, told.checked, told.lengths) == (20, 20, {3: 20})
    for wrong in ((theirs, None), (main, main)):
        with pytest.raises(UsageError, match="the main file comes first"):
            audit(wrong[0], subset=wrong[1])


def test_a_subset_file_that_leaves_out_a_better_member_is_otherwise_ordered(tmp_path):
    names = [*NAMES[60:65], *NAMES[:45]]
    main = write(tmp_path / "a.json", {"1": names}, metric="recall")
    for own, wrong in ((names[:3], 0), (names[1:4], 1)):
        theirs = write(tmp_path / "b.json", {"1": own}, metric="recall_subset")
        assert audit(main, subset=theirs).subset.otherwise_ordered.count == wrong


def test_overlap_is_the_share_of_names_that_both_list(tmp_path):
    ours, theirs = clean(), clean(reference_at=1)
    for query in ("1", "2"):
        theirs[query] = ours[query]
    found, other = (write(tmp_path / f"{i}.json", one) for i, one in enumerate((ours, theirs)))
    told = audit(found, others=[other])
    [overlap] = told.overlaps
    assert overlap.queries == 20
    for k in (1, 5, 10, 50):
        both = [len(set(ours[q][:k]) & set(theirs[q][:k])) / k for q in ours]
        assert overlap.at[k] == pytest.approx(100 * sum(both) / 20)
    assert overlap.same[50] == 4  # two that were copied, two without a reference to list
    assert overlap.reference.listed == 16
    assert "is of another kind: it lists the reference in 16 of 18" in told.conclusions[1]


def test_a_trec_run_is_read_by_score_and_its_ties_and_ranks_are_told(tmp_path):
    lines = [
        f"{query} Q0 {name} {rank} {-rank} tag"
        for query, names in clean().items()
        for rank, name in enumerate(names, start=1)
    ]
    told = audit(write(tmp_path / "run.txt", "\n".join(lines)))
    assert (told.kind, told.ties.count, told.misnumbered.count) == ("TREC run", 0, 0)
    tied = [line.replace(" 2 -2 ", " 2 -1 ") if line[:2] == "4 " else line for line in lines]
    turned = [line.replace(" 2 -2 ", " 2 7 ") if line[:2] == "5 " else line for line in tied]
    found = write(tmp_path / "run.txt", "\n".join(turned))
    told = audit(found)
    assert (told.ties.first, told.misnumbered.first) == (("4",), ("5",))
    assert found.answers["4"] == tuple(clean()["4"])
    assert found.answers["5"][:2] == tuple(clean()["5"][1::-1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "must be an object of query ids"),
        ('{"1": [1], "1": [2]}', "'1' occurs twice"),
        ('{"1": "2"}', "query 1: an answer must be a list"),
        ('{"1": [1.5]}', "query 1: an answer must be a list"),
        ('{"version": "rc2", "1": []}', "metric must be recall or recall_subset, got None"),
        ("", "got an empty file"),
        ("1 Q0 a 1 0.5 t\n1 Q0 b 2 t", "line 2 must be"),
        ("1 Q0 a 1 nan t", "line 1: the score must be finite"),
    ],
)
def test_what_is_no_answer_file_is_refused_with_its_place(tmp_path, content, said):
    path = tmp_path / "answers"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CorruptData, match=said):
        read_answers(path)


def find(found, split=None, protocol=None):
    return find_split(Shapes(), found, split=split, protocol=protocol, root=None)


def test_the_split_is_that_whose_queries_are_answered(tmp_path):
    """Here the queries of one split are some of the other's, as CIRCO's are."""
    for split in (VAL, TEST):
        found = write(tmp_path / "a.json", clean(split))
        own, told = find(found)
        assert own.name == split.name
        assert told["val"] == "20 of its 20 queries"
    with pytest.raises(UsageError, match=r"for the split test of shapes, not for val: .*40 of its"):
        find(found, split="val")
    with pytest.raises(UsageError, match="must answer queries of shapes, and it answers val: 0"):
        find(write(tmp_path / "b.json", {"x": ["1"]}))
    with pytest.raises(MissingData, match="the split gone"):
        find(found, split="gone")
    for wrong in ({"split": "train"}, {"protocol": "none"}):
        with pytest.raises(UsageError, match="has the"):
            find(found, **wrong)


def test_the_command_tells_a_records_own_answers_and_another_splits(bench, tmp_path):
    wanted = ("emoji", "image-only")
    [record] = [r for r in read_records(RESULTS) if (r.cell.task, r.cell.method) == wanted]
    arrays = record.read_per_query()
    answers = {
        str(query): arrays.gallery[rows].tolist()
        for query, rows in zip(arrays.query, arrays.top, strict=True)
    }
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers), encoding="utf-8")
    code, out, err = bench("audit-answers", path, "-t", "emoji", "--json", "-o", RESULTS)
    assert code == 0, err
    told = json.loads(out)
    assert told["split"] == "test"
    assert told["reference"]["listed"] == told["reference"]["within"]["1"] == 2400
    own = {overlap["other"]: overlap["at"] for overlap in told["overlaps"]}
    assert len(own) == len(list((RESULTS / "emoji").glob("*.json")))
    assert set(own[record.path.name].values()) == {100}
    code, out, _ = bench("audit-answers", path, "-t", "emoji", "-o", RESULTS)
    assert code == 0
    assert "2,400 of 2,400 answers" in out
    code, _, err = bench("audit-answers", path, "-t", "emoji", "--split", "val")
    assert code == 2
    assert "for the split test of emoji, not for val" in err
