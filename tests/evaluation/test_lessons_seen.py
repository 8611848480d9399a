"""A CLIP is not run on a task whose held-out pictures it was taught."""

from __future__ import annotations

import json

import pytest
import torch

from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.evaluation.lessons_seen import check_apart, find_lessons
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.datasets.emoji import pictures as emoji
from cirbench.datasets.kin import pictures as kin
from cirbench.datasets.scenes import pictures as scenes


def plan_run(task, backbone):
    return plan(Request(methods=("image-only",), task=task, split="val", backbone=backbone))


def describe(folder, recipe):
    folder.mkdir()
    text = json.dumps({"recipe": recipe})
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("task", "backbone"),
    [("kin", "emoji-clip"), ("kin", "mine=emoji-clip"), ("emoji", "kin-clip")],
)
def test_a_shipped_clip_is_refused_where_it_has_seen_what_is_held_out(task, backbone):
    with pytest.raises(UsageError, match=f"must not be run on {task}: it was trained on"):
        plan_run(task, backbone)


def test_a_clip_in_a_folder_is_refused_by_what_the_folder_says(tmp_path):
    name = describe(tmp_path / "mine", {"tasks": ["scenes", "emoji"]})
    with pytest.raises(UsageError, match="it was trained on emoji, and has seen pictures that kin"):
        plan_run("kin", name)


def test_a_tuned_clip_is_refused_by_what_it_was_tuned_from(tmp_path):
    write_checkpoint(tmp_path / "clip.safetensors", {"a": torch.zeros(1)}, {"base": "emoji-clip"})
    for name in (f"tuned:{tmp_path}", f"tuned:emoji-clip@{tmp_path}/clip.pt"):
        with pytest.raises(UsageError, match="must not be run on kin"):
            plan_run("kin", name)


@pytest.mark.parametrize(
    ("task", "backbone"),
    [("kin", "kin-clip"), ("emoji", "emoji-clip"), ("scenes", "emoji-clip"), ("kin", "fake")],
)
def test_others_are_run(task, backbone):
    assert plan_run(task, backbone).backbone == backbone


@pytest.mark.parametrize("recipe", [{}, {"tasks": "emoji"}, {"tasks": None}, [], None])
def test_a_folder_that_names_no_tasks_was_taught_by_none(tmp_path, recipe):
    assert not find_lessons(describe(tmp_path / "mine", recipe))


@pytest.mark.parametrize("name", ["emoji-clip", "kin-clip", "scenes-clip"])
def test_a_shipped_clip_says_what_it_was_trained_on(name):
    assert find_lessons(name) == [name.removesuffix("-clip")]


@pytest.mark.parametrize("name", ["ViT-L-14/openai", "hf:openai/clip-vit-large-patch14", "a/-clip"])
def test_other_backbones_had_no_lessons_of_ours(name):
    assert not find_lessons(name)


def test_tasks_that_share_pictures_say_so_of_each_other():
    def hashes(pictures):
        return {p.sha256 for p in pictures}

    def held_out(module):
        return hashes(p for p in module.read_pictures() if p.held_out)

    assert held_out(kin) & hashes(emoji.read_training_pictures())
    assert held_out(emoji) & hashes(kin.read_training_pictures())
    assert "emoji" in find_task("kin").shares_pictures_with
    assert "kin" in find_task("emoji").shares_pictures_with
    of_scenes = hashes(scenes.read_training_pictures())
    assert not of_scenes & (held_out(emoji) | held_out(kin))
    assert not find_task("scenes").shares_pictures_with


def test_one_clip_is_not_trained_on_both(tmp_path, bench):
    check_apart([find_task("emoji")(), find_task("scenes")()])
    code, _, err = bench(
        "train", "tiny-clip", "-t", "scenes", "-t", "emoji", "-t", "kin", "-o", tmp_path / "clip"
    )
    assert code == 2
    assert "one CLIP must not be trained on emoji and kin" in " ".join(err.split())
