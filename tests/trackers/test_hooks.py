"""A hook hears every number of a training, costs it nothing, and sends nothing unasked."""

from __future__ import annotations

import csv
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from cirbench.benchmark.trackers.hook import TRACKERS, find_hook
from cirbench.hooks import TrainingHook

COMBINER = ("combiner", "-t", "kin", "--projection", "8", "--hidden", "8", "--batch-size", "2000")
PIC2WORD = ("pic2word", "--images", "kin", "--cache-features", "--validation-share", "0.01")


class Heard(TrainingHook):
    made: ClassVar[list[Heard]] = []

    def __init__(self, *given):
        super().__init__(*given)
        self.numbers, self.closed = [], False
        self.made.append(self)

    def log(self, step, numbers):
        self.numbers.append((step, dict(numbers)))

    def close(self):
        self.closed = True


class Failing(Heard):
    def log(self, step, numbers):
        super().log(step, numbers)
        raise ConnectionError("no route")


@pytest.fixture(autouse=True)
def own_hooks(monkeypatch):
    monkeypatch.setattr(Heard, "made", [])
    module = SimpleNamespace(Heard=Heard, Failing=Failing, nothing=str)
    monkeypatch.setitem(sys.modules, "own_hooks", module)


@pytest.fixture
def train(bench, tmp_path):
    def call(training, *options):
        return bench("train", *training, "-b", "fake", "-o", tmp_path / "w.safetensors", *options)

    return call


def read_log(folder):
    with (folder / "w.log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_hook_hears_each_epoch_as_the_log_has_it(train, tmp_path):
    code, _, error = train(COMBINER, "-q", "--epochs", "2", "--track", "own_hooks:Heard")
    assert code == 0, error
    [hook] = Heard.made
    assert (hook.name, hook.closed) == ("combiner", True)
    assert hook.settings["epochs"] == 2
    assert hook.folder == tmp_path / "w.tracked" / "Heard"
    assert [step for step, _ in hook.numbers] == [1, 2]
    rows = read_log(tmp_path)
    assert [numbers["loss"] for _, numbers in hook.numbers] == [float(r["loss"]) for r in rows]
    assert all(set(numbers) == {"loss", "selection"} for _, numbers in hook.numbers)


def test_a_hook_hears_each_step_of_pic2word_and_what_is_validated(train, tmp_path):
    code, _, error = train(
        PIC2WORD, "-q", "--epochs", "1", "--batch-size", "1000", "--track", "own_hooks:Heard"
    )
    assert code == 0, error
    [hook] = Heard.made
    rows = read_log(tmp_path)
    assert [n["loss"] for _, n in hook.numbers if "loss" in n] == [float(r["loss"]) for r in rows]
    assert set(hook.numbers[-1][1]) == {"held_out", "recall_at_1"}


def test_a_hook_that_fails_is_left_out_aloud_and_the_training_ends_well(train, tmp_path):
    code, _, error = train(
        COMBINER, "--epochs", "2", "--track", "own_hooks:Failing", "--track", "own_hooks:Heard"
    )
    assert code == 0
    assert "a tracker failed and is left out (ConnectionError: no route)" in error
    failing, heard = Heard.made
    assert (len(failing.numbers), len(heard.numbers)) == (1, 2)
    assert failing.closed
    assert (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("tensorbord", 2, "did you mean tensorboard?"),
        ("own_hooks:Missing", 2, "cannot be imported"),
        ("own_hooks:nothing", 2, "must be a class derived from TrainingHook"),
        ("wandb", 3, "pip install wandb"),
    ],
)
def test_a_hook_that_is_not_there_ends_before_any_work(train, monkeypatch, name, code, words):
    monkeypatch.setitem(sys.modules, "wandb", None)
    found, _, error = train(COMBINER, "-q", "--epochs", "1", "--track", name)
    assert (found, len(error.splitlines())) == (code, 1)
    assert words in error


def test_tensorboard_reads_what_was_written(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, error = train(COMBINER, "-q", "--epochs", "2", "--track", "tensorboard")
    assert code == 0, error
    events = EventAccumulator(str(tmp_path / "w.tracked" / "tensorboard")).Reload()
    found = events.Scalars("combiner/loss")
    losses = [float(row["loss"]) for row in read_log(tmp_path)]
    assert [event.step for event in found] == [1, 2]
    assert [event.value for event in found] == pytest.approx(losses)


class Called:
    """Stands in for a library: notes each call, and gives itself."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*given, **named):
            self.calls.append((name, given, named))
            return self

        return call


@pytest.fixture
def libraries(monkeypatch):
    found = {name: Called() for name in ("wandb", "mlflow", "trackio")}
    for name, library in found.items():
        monkeypatch.setitem(sys.modules, name, library)
    return found


def track(name, folder):
    hook = find_hook(name)("combiner", folder, {"epochs": 2})
    hook.log(1, {"loss": 0.5})
    hook.close()


def test_weights_and_biases_is_offline_unless_its_own_setting_says_otherwise(
    libraries, tmp_path, monkeypatch
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    track("wandb", tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")
    track("wandb", tmp_path)
    modes = [named["mode"] for name, _, named in libraries["wandb"].calls if name == "init"]
    assert modes == ["offline", "online"]
    assert ("log", ({"loss": 0.5},), {"step": 1}) in libraries["wandb"].calls
    assert libraries["wandb"].calls[-1][0] == "finish"


def test_mlflow_writes_beside_the_output_unless_its_own_setting_says_otherwise(
    libraries, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    libraries["mlflow"].experiment_id = "1"
    libraries["mlflow"].info = SimpleNamespace(run_id="r")
    track("mlflow", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.invalid")
    track("mlflow", tmp_path)
    calls = libraries["mlflow"].calls
    uris = [named["tracking_uri"] for name, _, named in calls if name == "MlflowClient"]
    assert uris == [f"sqlite:///{tmp_path / 'mlflow.db'}", "http://example.invalid"]
    assert ("log_metric", ("r", "loss", 0.5), {"step": 1}) in calls
    assert calls[-1] == ("set_terminated", ("r",), {})


def test_trackio_names_no_space(libraries, tmp_path):
    track("trackio", tmp_path)
    [(name, given, named), *rest] = libraries["trackio"].calls
    assert (name, given) == ("init", ())
    assert set(named) == {"project", "name", "config"}
    assert [name for name, *_ in rest] == ["log", "finish"]


def test_every_tracker_is_a_file_of_its_own():
    assert {find_hook(name).__module__.rpartition(".")[2] for name in TRACKERS} == set(TRACKERS)
