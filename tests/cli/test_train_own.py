"""A plug-in's training: registered once, it has a command and may stand in a sweep."""

from __future__ import annotations

import json
import re

import pytest

CODE = '''
import json
from dataclasses import dataclass
import cirbench


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int = 3
    rate: float = 0.5
    width: int | None = None
    seed: int = 0


class MyTraining(cirbench.Training):
    """Writes down what it was asked for."""

    source = "images"
    recipe = Recipe

    def train(self, request, reporter, *, resume):
        told = {"source": request.source, "recipe": dict(request.recipe), "resume": resume}
        reporter.say("training")
        request.output.write_text(json.dumps(told), encoding="utf-8")
'''


@pytest.fixture
def own_training(tmp_path, monkeypatch):
    from functools import cache

    from cirbench.benchmark.api import registry

    (tmp_path / "own_training.py").write_text(CODE, encoding="utf-8")
    info = tmp_path / "own_training-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: own-training\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[cirbench.trainings]\nmine = own_training:MyTraining\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entries", cache(registry._entries.__wrapped__))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_listed_with_what_it_says_of_itself(bench, own_training):
    code, out, _ = bench("train", "--help")
    assert code == 0
    assert re.search(r"  mine +Writes down what it was asked for\.", out)
    code, out, _ = bench("train", "mine", "--help")
    assert code == 0
    assert "--images" in out
    assert "--epochs" in out
    assert "[default: 0.5]" in out


def test_its_recipe_are_its_options(bench, own_training):
    command = ("train", "mine", "--images", "photos", "-b", "fake", "-o", "weights.json")
    code, out, err = bench(*command, "--epochs", "5", "--width", "8", "--seed", "4", "--resume")
    assert (code, out, err) == (0, "weights.json\n", "training\n")
    assert json.loads((own_training / "weights.json").read_text(encoding="utf-8")) == {
        "source": "photos",
        "recipe": {"epochs": 5, "width": 8, "seed": 4},
        "resume": True,
    }


@pytest.mark.parametrize("wrong", [("--epochs", "many"), ("--epoch", "3"), ("-o", ".")])
def test_what_it_does_not_take_is_refused(bench, own_training, wrong):
    command = ("train", "mine", "--images", "photos", "-b", "fake", "-o", "weights.json")
    assert bench(*command, *wrong)[0] == 2
    assert not (own_training / "weights.json").exists()


def test_a_training_that_nobody_registered_is_no_command(bench):
    assert bench("train", "nobodys", "--help")[0] == 2
