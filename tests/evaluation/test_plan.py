"""What a request becomes before anything is computed."""

from __future__ import annotations

import pytest
import torch

from cirbench.benchmark.api.registry import find_task, tasks
from cirbench.benchmark.evaluation.plan import Request, choose_device, plan, plan_each
from cirbench.benchmark.runtime.errors import UsageError


def test_the_embedded_tasks_are_those_that_need_nothing_and_are_planned_in_turn():
    request = Request(methods=("image-only",), task="embedded", backbone="fake", limit=1)
    planned = [made.task.name for made in plan_each(request)]
    assert planned == [name for name, entry in tasks().items() if entry.embedded]
    assert "emoji" in planned
    needy = [name for name in tasks() if find_task(name).places]
    assert not set(planned) & set(needy)


@pytest.mark.parametrize(
    ("cuda", "apple", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_cuda_then_apples_gpu_then_the_cpu(monkeypatch, cuda, apple, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert choose_device("auto") == chosen


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_apples_gpu_is_refused_where_there_is_none():
    with pytest.raises(UsageError, match=r"'mps' cannot be used .* try --device auto"):
        choose_device("mps")


@pytest.mark.parametrize(("device", "ranked_on"), [("mps", "cpu"), ("cuda:1", "cuda:1")])
def test_apples_gpu_lacks_the_numbers_that_ranking_needs(device, ranked_on):
    made = plan(Request(methods=("image-only",), task="emoji", backbone="fake", limit=2))
    vars(made)["devices"] = (device,)  # as a machine with that GPU chose it
    assert made.ranking_device == ranked_on
