"""Plug-ins that fall short are told of what, by the rule that they break."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

import cirbench
from cirbench.benchmark.api.values import Released
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.conformance.backbones import inspect_backbone
from cirbench.benchmark.conformance.methods import inspect_method
from cirbench.benchmark.conformance.tasks import inspect_task
from cirbench.benchmark.runtime.errors import CheckFailed, UsageError
from cirbench.testing import check_backbone, check_method, check_task


class Sound(cirbench.Method):
    """Keeps every rule."""

    name = "sound"

    def compose(self, queries):
        return normalize(queries.reference_features + queries.text_features(), dim=-1)


class Long(Sound):
    def compose(self, queries):
        return 2 * super().compose(queries)


class Doubles(Sound):
    def compose(self, queries):
        return super().compose(queries).double()


class Narrow(Sound):
    def compose(self, queries):
        return super().compose(queries)[:, :-1]


class Centred(Sound):
    def compose(self, queries):
        found = super().compose(queries)
        return normalize(found - 0.1 * found.mean(dim=0), dim=-1)


class Counting(Sound):
    calls = 0

    def compose(self, queries):
        Counting.calls += 1
        return super().compose(queries).roll(Counting.calls, dims=1)


class Positional(Sound):
    def compose(self, queries):
        found = super().compose(queries)
        return torch.cat([found[:1].flip(1), found[1:]])


class Nameless(Sound):
    name = ""


class Raising(Sound):
    def compose(self, queries):
        raise RuntimeError("no GPU here")


class Distance(Sound):
    """Keeps every rule, with a score and a gallery of its own."""

    def compose(self, queries):
        return torch.stack([queries.reference_features, queries.text_features()], dim=1)

    def gallery(self, features):
        return features[:, :-1]

    def score(self, queries, gallery):
        return -torch.cdist(queries.mean(dim=1)[:, :-1], gallery)


class Relative(Distance):
    def score(self, queries, gallery):
        return super().score(queries, gallery).softmax(dim=1)


class Endless(Distance):
    def compose(self, queries):
        return super().compose(queries) / 0


def faults(findings):
    return {found.rule: found.fault for found in findings if found.fault}


def test_a_sound_method_keeps_every_rule():
    for sound in (Sound, Distance):
        assert faults(inspect_method(sound)) == {}
        check_method(sound)


@pytest.mark.parametrize(
    ("method", "rule", "says"),
    [
        (Long, "gives unit vectors", "length 1"),
        (Doubles, "gives one float32 vector a query", "float64"),
        (Narrow, "gives one float32 vector a query", "got (24, "),
        (Centred, "does not depend on the batch", "alone and in a batch"),
        (Counting, "is deterministic", "same vectors"),
        (Positional, "does not depend on the order of queries", "another order"),
        (Nameless, "names itself", "name must be a text"),
        (Relative, "scores each picture by itself", "must not depend on others"),
        (Endless, "gives unit vectors", "finite"),
        (Raising, "is deterministic", "RuntimeError: no GPU here"),
    ],
)
def test_a_method_that_breaks_a_rule_is_told_which(method, rule, says):
    assert says in faults(inspect_method(method))[rule]
    with pytest.raises(CheckFailed, match=f"{method.__name__} falls short of its contract"):
        check_method(method)


class Emoji(type(cirbench.load_task("emoji"))):
    """A task that is changed before it is given."""

    name = "changed"
    splits = ("val",)
    released = {}  # noqa: RUF012 - a class variable of the seam

    def __init__(self, change):
        self.change = change

    def load(self, **wanted):
        return self.change(super().load(**wanted))


def change_first(data, **changes):
    return replace(data, queries=(replace(data.queries[0], **changes), *data.queries[1:]))


def rename(data):
    first, *rest = data.gallery
    return replace(data, gallery=(replace(first, id=rest[0].id, box=(0, 0, 1, 1)), *rest))


@pytest.mark.parametrize(
    ("change", "rule", "says"),
    [
        (lambda data: replace(data, queries=()), "has a gallery and queries", "must be"),
        (
            lambda data: change_first(data, id=data.queries[1].id),
            "has a gallery and queries",
            "an id of its own",
        ),
        (lambda data: change_first(data, positives=(750,)), "points into its gallery", "row 750"),
        (lambda data: change_first(data, grades={750: 1.0}), "points into its gallery", "row 750"),
        (lambda data: change_first(data, positives=(3, 3)), "points into its gallery", "once"),
        (
            lambda data: change_first(data, positives=(3,), removed=3),
            "points into its gallery",
            "must not be removed",
        ),
        (
            lambda data: change_first(data, positives=(3,), target=4),
            "points into its gallery",
            "its target must be one of its positives",
        ),
        (
            lambda data: change_first(data, positives=(3,), candidates=(4, 5)),
            "points into its gallery",
            "a positive must be one of its candidates",
        ),
        (
            lambda data: change_first(data, positives=(3,), candidates=(3, 750)),
            "points into its gallery",
            "row 750",
        ),
        (
            lambda data: change_first(data, positives=(3,), candidates=(3, 4), members=(5,)),
            "points into its gallery",
            "no `removed` or `members`",
        ),
        (lambda data: change_first(data, group="odd"), "has a text for each query", "odd"),
        (rename, "gives each picture an id of its own", "it is of two"),
        (
            lambda data: replace(data, missing={data.gallery[0].id: "nowhere"}),
            "has its pictures",
            "1 pictures are not there",
        ),
    ],
)
def test_a_task_that_breaks_a_rule_is_told_which(change, rule, says):
    task = Emoji(change)
    assert says in faults(inspect_task(task))[rule]
    with pytest.raises(CheckFailed, match="changed falls short"):
        check_task(task)


def test_a_task_that_loads_otherwise_the_second_time_is_told():
    turns = []

    def change(data):
        turns.append(1)
        return replace(data, gallery=data.gallery[:: (-1) ** len(turns)])

    assert "in order" in faults(inspect_task(Emoji(change)))["loads the same twice"]


def test_graded_metrics_need_grades():
    def grade(data):
        return change_first(data, grades={data.queries[0].positives[0]: 1.0})

    protocol = replace(Emoji.protocols["emoji"], metrics=("R@10", "SR@1"))
    for change, said in (
        (lambda data: data, "val, emoji: SR@1 needs queries that have grades"),
        (grade, None),
    ):
        task = Emoji(change)
        task.protocols = {"emoji": protocol}
        assert faults(inspect_task(task)).get("has a gallery and queries") == said


def test_recall_of_the_target_needs_targets():
    def aim(data):
        queries = [replace(query, target=query.positives[0]) for query in data.queries]
        return replace(data, queries=tuple(queries))

    protocol = replace(Emoji.protocols["emoji"], metrics=("R@10", "target R@1"))
    for change, said in (
        (lambda data: change_first(aim(data), target=None), "target R@1 needs queries that each"),
        (aim, None),
    ):
        task = Emoji(change)
        task.protocols = {"emoji": protocol}
        found = faults(inspect_task(task)).get("has a gallery and queries")
        assert found is None if said is None else said in found


def test_a_task_that_is_not_what_it_calls_released_is_told():
    task = Emoji(lambda data: data)
    task.released = {"val": Released(queries={"3d": 1}, gallery={"emoji": 750})}
    assert "not the released" in faults(inspect_task(task))["has what it calls released"]


@pytest.mark.parametrize("name", ["fake", "emoji-clip"])
def test_our_backbones_keep_every_rule(name):
    check_backbone(name)


ENCODE_PROMPTS = TorchBackbone.encode_prompts


def fill_first(backbone, prompts, words, every=False, **more):
    """Put each word in its prompt's first placeholder alone."""
    one_by_one = zip(prompts, words, strict=True)
    return torch.cat(
        [
            backbone.encode_texts([prompt])
            if every and "*" not in prompt
            else ENCODE_PROMPTS(backbone, [prompt], word[None], **more)
            for prompt, word in one_by_one
        ]
    )


@pytest.mark.parametrize(
    ("member", "broken", "rule", "says"),
    [
        ("encode_images", lambda _, px: torch.rand(len(px), 8), "encodes pictures", "got (3, 8)"),
        (
            "encode_texts",
            lambda b, t, truncate=False: torch.ones(len(t), b.embedding_width),
            "encodes texts",
            "tell two texts apart",
        ),
        (
            "encode_texts",
            lambda b, t, truncate=False: torch.rand(len(t), b.embedding_width),
            "is deterministic",
            "same embedding",
        ),
        (
            "encode_texts",
            lambda b, t, truncate=False: torch.ones(len(t), b.embedding_width),
            "refuses a text beyond its context",
            "must be refused",
        ),
        (
            "encode_prompts",
            lambda b, p, w, **_: torch.ones(len(p), b.embedding_width),
            "encodes prompts with a pseudo-word",
            "must change",
        ),
        (
            "encode_prompts",
            lambda b, p, w, **_: torch.ones(len(p), b.embedding_width),
            "refuses a prompt without its placeholder",
            "must be refused",
        ),
        (
            "encode_prompts",
            fill_first,
            "puts a pseudo-word in every placeholder",
            "must give the same with `every` and with a word for each placeholder",
        ),
        (
            "encode_prompts",
            lambda b, p, w, placeholder="*", truncate=False: ENCODE_PROMPTS(b, p, w),
            "puts a pseudo-word in every placeholder",
            "unexpected keyword argument 'every'",
        ),
    ],
)
def test_a_backbone_that_breaks_a_rule_is_told_which(member, broken, rule, says, monkeypatch):
    backbone = cirbench.load_backbone("fake")
    monkeypatch.setattr(type(backbone), member, broken)
    assert says in faults(inspect_backbone(backbone))[rule]
    with pytest.raises(CheckFailed, match="fake falls short"):
        check_backbone(backbone)


def test_a_backbone_whose_weights_move_is_told():
    backbone = cirbench.load_backbone("fake")
    for weights in backbone.parameters():
        weights.requires_grad_(True)
    found = faults(inspect_backbone(backbone))
    assert "must be frozen" in found["passes gradients to pseudo-words alone"]


def test_bench_check_says_ok_or_exits_with_1(bench, monkeypatch):
    code, out, _ = bench("check", "text-only")
    assert code == 0
    assert "FAILS" not in out
    monkeypatch.setattr("cirbench.benchmark.api.registry.find_method", lambda _: Long)
    monkeypatch.setattr("cirbench.benchmark.evaluation.plan.find_method", lambda _: Long)
    code, out, err = bench("check", "text-only")
    assert code == 1
    assert "FAILS  gives unit vectors" in out
    assert "text-only breaks 1 of 8 rules" in err
    assert bench("check", "texd-only")[0] == 2


def test_a_new_method_passes_its_own_test(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = bench("new", "method", "my-method")
    assert code == 0
    assert out.startswith("my_method.py\ntest_my_method.py\n")
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--rootdir", ".", "test_my_method.py"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert "2 passed" in done.stdout, done.stdout
    code, _, err = bench("new", "method", "my-method")
    assert code == 2
    assert "exists; choose another name" in err


@pytest.mark.parametrize("name", ["pic2word", "Mine", "a b", "-a", "a/b", ""])
def test_a_new_method_needs_a_name_of_its_own(bench, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench("new", "method", "--", name)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_task_without_its_data_is_not_called_faulty(bench, tmp_path):
    code, out, err = bench("check", "cirr", "--data-root", tmp_path)
    assert (code, out) == (3, "")
    assert "bench data where cirr" in err


def test_a_name_that_nothing_has_is_refused():
    with pytest.raises(UsageError, match="unknown method"):
        inspect_method("pic2wort")
