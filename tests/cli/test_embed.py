"""`bench embed`: a task's pictures into the store, by a job or by several."""

from __future__ import annotations

import json

import pytest

KIN = ("embed", "-t", "kin", "-b", "fake", "--device", "cpu", "-q")


def test_shards_by_hand_leave_a_run_nothing_to_embed(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "cache"))
    told = [json.loads(bench(*KIN, "--shard", f"{i}/2", "--json")[1]) for i in (2, 1)]
    assert [shard["shard"] for shard in told] == ["2/2", "1/2"]
    assert sum(shard["passes"] for shard in told) == 768
    assert told[0]["spaces"] == told[1]["spaces"]
    run = ("run", "-m", "image-only", "-t", "kin", "-b", "fake", "--device", "cpu", "-q", "--json")
    code, out, _ = bench(*run, "-o", tmp_path / "results")
    assert code == 0
    assert json.loads(out)["counts"]["image_passes"] == 0
    assert "0 pictures were encoded now" in bench(*KIN)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "3/2"), "a shard must be I/N with I from 1 to N, as 2/8, got '3/2'"),
        (("--shard", "1/769"), "no more than its 768 pictures, got 769"),
        (("--shard", "1/2", "--device", "cpu,cpu"), "choose --shard, or several devices"),
        (("--cache", "off"), "must be use or refresh, got off"),
    ],
)
def test_what_cannot_be_embedded_is_one_error(bench, options, said):
    code, out, err = bench(*KIN, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
