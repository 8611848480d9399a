"""Embeddings of texts and prompts: each once in a run, and once in all runs that share a store."""

from __future__ import annotations

import pytest
import torch

from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.embedding import texts as texts_module
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.kept import find_cache_root
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.pic2word.method import MappingNetwork

TEXTS = ["a cartoon of", "a toy of", "a cartoon of"]
PROMPTS = [f"{text} *" for text in TEXTS]


@pytest.fixture
def counted(monkeypatch):
    """The fake backbone, and every text that its tower gets."""
    backbone, seen = load_backbone("fake"), []
    encode_texts, encode_prompts = backbone.encode_texts, backbone.encode_prompts

    def texts(given, **more):
        seen.extend(given)
        return encode_texts(given, **more)

    def prompts(given, words, **more):
        seen.extend(given)
        return encode_prompts(given, words, **more)

    monkeypatch.setattr(backbone, "encode_texts", texts)
    monkeypatch.setattr(backbone, "encode_prompts", prompts)
    return backbone, seen


def words(backbone, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(PROMPTS), backbone.token_width, generator=generator)


def features(backbone, mode=Mode.USE, checkpoint="c"):
    return TextFeatures(backbone=backbone, truncate=False, mode=mode).for_method(checkpoint)


@pytest.mark.parametrize("mode", Mode)
def test_a_text_is_encoded_once_in_a_run(counted, mode):
    backbone, seen = counted
    found = features(backbone, mode)
    first, second = found.of(TEXTS), found.of(TEXTS[1:])
    assert torch.equal(first, load_backbone("fake").encode_texts(TEXTS))
    assert torch.equal(first[1:], second)
    assert seen == TEXTS[:2]


def test_another_run_encodes_nothing_and_gives_the_same(counted):
    backbone, seen = counted
    first, w = features(backbone), words(backbone)
    wanted = first.of(TEXTS), first.of_prompts(PROMPTS, w)
    assert len(seen) == 2 + 3
    first.flush()
    again = features(backbone)
    assert torch.equal(again.of(TEXTS), wanted[0])
    assert torch.equal(again.of_prompts(PROMPTS, w), wanted[1])
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("changes", "encoded"),
    [
        ({"seed": 1}, 3),
        ({"checkpoint": "other"}, 3),
        ({"mode": Mode.REFRESH}, 3),
        ({"mode": Mode.OFF}, 3),
        ({"mode": Mode.READ_ONLY}, 0),
        ({"prompt": "an * of"}, 3),
    ],
)
def test_what_changes_a_prompts_vector_is_seen(counted, changes, encoded):
    backbone, seen = counted
    first = features(backbone)
    first.of_prompts(PROMPTS, words(backbone))
    first.flush()
    seen.clear()
    prompts = [changes["prompt"]] * 3 if "prompt" in changes else PROMPTS
    again = features(backbone, changes.get("mode", Mode.USE), changes.get("checkpoint", "c"))
    found = again.of_prompts(prompts, words(backbone, changes.get("seed", 0)))
    assert len(seen) == encoded
    wanted = backbone.encode_prompts(prompts, words(backbone, changes.get("seed", 0)))
    assert torch.equal(found, wanted)


def test_a_cut_text_and_a_whole_one_have_places_of_their_own(counted):
    backbone, _ = counted
    for truncate in (False, True):
        found = TextFeatures(backbone=backbone, truncate=truncate, mode=Mode.USE)
        found.of(TEXTS)
        found.flush()
    assert len(list((find_cache_root() / "embeddings").glob("*/key.json"))) == 2


def test_a_killed_run_loses_the_shard_in_work_alone(counted, monkeypatch):
    backbone, seen = counted
    monkeypatch.setattr(texts_module, "SHARD_ROWS", 4)
    first = features(backbone)
    for i in range(10):
        first.of([f"text {i}"])
    seen.clear()
    features(backbone).of([f"text {i}" for i in range(10)])
    assert seen == ["text 8", "text 9"]


@pytest.mark.parametrize("mode", [Mode.READ_ONLY, Mode.OFF])
def test_nothing_is_written_where_nothing_may_be(counted, mode):
    backbone, _ = counted
    found = features(backbone, mode)
    found.of(TEXTS)
    found.of_prompts(PROMPTS, words(backbone))
    found.flush()
    assert not find_cache_root().exists()


def test_a_refresh_keeps_what_it_has_made_itself(counted):
    backbone, seen = counted
    for _ in range(2):
        found = features(backbone, Mode.REFRESH)
        found.of(TEXTS)
        found.flush()
        found.of(TEXTS)
    assert seen == TEXTS[:2] * 2


def test_a_second_run_of_pic2word_does_not_use_the_text_tower(tmp_path, monkeypatch):
    backbone = load_backbone("fake")
    torch.manual_seed(0)
    mapper = MappingNetwork(backbone.embedding_width, backbone.token_width)
    write_checkpoint(tmp_path / "m.safetensors", mapper.state_dict(), {})
    request = Request(
        methods=("text-only", "pic2word"),
        task="emoji",
        split="val",
        backbone="fake",
        output=tmp_path,
        checkpoints={"pic2word": tmp_path / "m.safetensors"},
    )
    first = [record.metrics for record in run(plan(request), Reporter(quiet=True))]

    def never(*_args, **_more):
        raise AssertionError("encoded again")

    for name in ("encode_texts", "encode_prompts", "encode_images"):
        monkeypatch.setattr(type(backbone), name, never)
    assert [r.metrics for r in run(plan(request), Reporter(quiet=True))] == first
