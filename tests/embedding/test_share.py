"""Shares of a gallery: each picture is one's, batches are whole, and vectors have the same bits."""

from __future__ import annotations

import json
import random

import pytest

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.share import Share, count_shares
from cirbench.benchmark.evaluation.embed import embed_request, embed_share
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.progress import Reporter

QUIET = Reporter(quiet=True)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 101])
@pytest.mark.parametrize(("shard_rows", "batch_size"), [(12, 4), (10, 4), (200, 8), (4, 7)])
def test_every_item_is_of_one_share_in_the_batch_that_it_has_alone(count, shard_rows, batch_size):
    items = [str(i) for i in range(101)]

    def cut(pieces):
        return [tuple(p[i : i + batch_size]) for p in pieces for i in range(0, len(p), batch_size)]

    alone = cut(Share().choose(items, shard_rows, batch_size))
    together = [
        batch
        for number in range(1, count + 1)
        for batch in cut(Share(number, count).choose(items, shard_rows, batch_size))
    ]
    assert together == alone
    assert [item for batch in alone for item in batch] == items
    sizes = [
        len(cut(Share(n + 1, count).choose(items, shard_rows, batch_size))) for n in range(count)
    ]
    assert max(sizes) - min(sizes) <= 1


def test_one_share_of_one_is_cut_into_whole_shards():
    items = [str(i) for i in range(25)]
    assert Share().choose(items, 10, 4) == [items[:10], items[10:20], items[20:]]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "-1/2", "1/2/3", "a/b", "١/٢", " 1/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="I/N with I from 1 to N"):
        Share.parse(text)
    assert str(Share.parse("2/8")) == "2/8"


def test_no_share_is_without_a_batch():
    assert [count_shares(n, 4, 64) for n in (1, 64, 65, 129, 10_000)] == [1, 1, 2, 3, 4]


def request(folder, monkeypatch, **changes):
    monkeypatch.setenv("CIRBENCH_CACHE", str(folder))
    settings = {"methods": ("image-only",), "task": "kin", "backbone": "fake", "device": "cpu"}
    return Request(**{**settings, "output": folder / "records", **changes})


def run_one(wanted):
    [record] = run(plan(wanted), QUIET)
    return record


def test_shares_in_any_order_make_the_record_of_one_job(tmp_path, monkeypatch):
    one = run_one(request(tmp_path / "one", monkeypatch))
    made = plan(request(tmp_path / "shares", monkeypatch))
    backbone, order = load_backbone("fake"), list(range(1, 6))
    random.Random(0).shuffle(order)
    assert order != sorted(order)
    stored = [embed_share(made, [backbone], Share(number, 5), QUIET) for number in order]
    assert sum(own.passes for own in stored) == made.pictures
    assert len({own.spaces for own in stored}) == 1
    shared = run_one(request(tmp_path / "shares", monkeypatch))
    assert shared.counts.image_passes == 0
    assert one.counts.image_passes == made.pictures
    assert shared.per_query.sha256 == one.per_query.sha256
    assert (shared.metrics, shared.fingerprints) == (one.metrics, one.fingerprints)


def test_a_share_that_is_done_again_sees_no_picture(tmp_path, monkeypatch):
    made = plan(request(tmp_path, monkeypatch))
    backbone = load_backbone("fake")
    first, again = (embed_share(made, [backbone], Share(2, 3), QUIET) for _ in range(2))
    assert (first.passes > 0, again.passes, again.spaces) == (True, 0, first.spaces)


def test_a_refreshed_share_leaves_what_the_other_made_anew(tmp_path, monkeypatch):
    backbone = load_backbone("fake")
    run_one(request(tmp_path, monkeypatch))
    fresh = plan(request(tmp_path, monkeypatch, cache="refresh"))
    passes = [embed_share(fresh, [backbone], Share(n, 2), QUIET).passes for n in (2, 1)]
    assert sum(passes) == fresh.pictures
    assert run_one(request(tmp_path, monkeypatch)).counts.image_passes == 0


def test_more_shares_than_pictures_are_refused(tmp_path, monkeypatch):
    made = plan(request(tmp_path, monkeypatch, limit=1))
    with pytest.raises(UsageError, match=f"no more than its {made.pictures} pictures, got 99"):
        embed_share(made, [], Share(1, 99), QUIET)


def test_a_request_of_another_process_is_plain_json(tmp_path, monkeypatch):
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path))
    wanted = {"methods": [], "task": "kin", "backbone": "fake", "device": "cpu", "batch_size": 1}
    told = json.loads(json.dumps({**wanted, "shard": "1/2"}))
    assert embed_request(told, QUIET).passes > 0
