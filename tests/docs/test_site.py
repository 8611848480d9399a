"""What the site says of methods, tasks and Python is what there is."""

from __future__ import annotations

import re

import pytest
from places import ROOT

import cirbench
from cirbench import hooks, testing
from cirbench.benchmark.api import registry


def test_the_python_page_has_every_public_name():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    checks = [name for name in vars(testing) if name.startswith("check_")]
    wanted = {f"cirbench.{name}" for name in cirbench.__all__ if name != "__version__"}
    wanted |= {f"cirbench.testing.{name}" for name in checks}
    wanted |= {f"cirbench.hooks.{name}" for name in hooks.__all__}
    listed = re.findall("^::: (.+)$", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(wanted)


@pytest.mark.parametrize("kind", ["methods", "tasks", "backbones"])
def test_bench_ls_gives_a_table_of_markdown(bench, kind):
    code, out, _ = bench("ls", kind, "--markdown")
    assert code == 0
    names = re.findall("^[|] `(.+?)` [|] .+ [|]$", out, flags=re.MULTILINE)
    assert names == list(getattr(registry, kind)())


def test_bench_info_gives_a_section_of_markdown(bench):
    _, task, _ = bench("info", "emoji", "--markdown")
    assert task.startswith("## emoji\n\nTask `emoji`:")
    assert "\n- splits: test, val\n" in task
    assert "\n### protocol emoji\n\n```text\nname: emoji\n" in task
    _, method, _ = bench("info", "searle", "--markdown")
    assert '    q = n(T("a photo of * that' in method  # code, as it is
    assert r'The placeholder is "\*" here' in method
    _, backbone, _ = bench("info", "fake", "--markdown")
    assert backbone.startswith("## fake\n\n- summary: ")
    _, protocol, _ = bench("info", "clip4cir", "--markdown")
    assert "### protocol clip4cir of cirr\n" in protocol
