"""What a request becomes before anything is computed."""

from __future__ import annotations

from cirbench.benchmark.api.registry import find_task, tasks
from cirbench.benchmark.evaluation.plan import Request, plan_each


def test_the_embedded_tasks_are_those_that_need_nothing_and_are_planned_in_turn():
    request = Request(methods=("image-only",), task="embedded", backbone="fake", limit=1)
    planned = [made.task.name for made in plan_each(request)]
    assert planned == [name for name, entry in tasks().items() if entry.embedded]
    assert "emoji" in planned
    needy = [name for name in tasks() if find_task(name).places]
    assert not set(planned) & set(needy)
