"""Training of the supervised systems: over frozen features, and with a trunk trained along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from triplets import SMALL, WORDINGS, make_training_job, read_log

from cirbench.benchmark.api.values import Selection
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint, write_checkpoint
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training import epochs
from cirbench.methods.supervised import training

QUIET = Reporter(quiet=True)
FROZEN = [
    ("tirg", {"learning_rate": 0.05}),
    ("tirg", {"learning_rate": 0.05, "fusion": "concat"}),
    ("tirg", {"learning_rate": 0.02, "loss": "triplet"}),
    ("maaf", {"learning_rate": 3e-3}),
    ("artemis", {"learning_rate": 0.01}),
    ("cirplant", {"learning_rate": 0.01}),
]
END_TO_END = [
    ("tirg", {"learning_rate": 3e-3}),
    ("tirg", {"learning_rate": 3e-4, "fusion": "last-conv"}),
    ("tirg", {"learning_rate": 3e-4, "loss": "triplet"}),
    ("maaf", {"learning_rate": 0.01, "augmentation": "none"}),
    ("artemis", {"learning_rate": 3e-3, "augmentation": "none"}),
]


def name_of(case):
    return case if isinstance(case, str) else "-".join(v for v in case.values() if type(v) is str)


def check_training(job, chance):
    """Train; the loss falls, the score rises above chance, the file is that of the best epoch."""
    best = training.train(job, QUIET)
    log = read_log(job)
    scores = [score for _, score in log]
    print("losses", [round(loss, 3) for loss, _ in log], "scores", [round(s, 1) for s in scores])
    assert log[-1][0] < 0.8 * log[0][0]
    assert best == max(scores) > 2 * chance
    saved = read_checkpoint(job.output)
    header = saved.provenance
    assert header["kind"] == job.method.name
    assert header["trained_on"] == "pairs"
    assert header["recipe"] == asdict(job.recipe)
    assert header["backbone"]["weights"] == job.backbone.weights_sha256
    assert header["selection"]["split"] == "val"
    assert (header["selection_score"], header["best_epoch"]) == (best, 1 + scores.index(best))
    network, words = job.method.read(saved)
    assert asdict(network.shape) == header["shape"]
    assert (header.get("words") is None) == (words is None)
    assert not epochs.state_path_of(job.output).exists()
    return header


CHANCE = 100 * (5 + 1) / 2 / 32
"""Mean of R@5 and R@1 in a gallery of 32."""


@pytest.mark.parametrize(("method", "numbers"), FROZEN, ids=name_of)
def test_a_training_over_frozen_features_learns(method, numbers, fake, picture_refs, tmp_path):
    job = make_training_job(
        method, fake, picture_refs(32), tmp_path / "a.safetensors", epochs=25, **numbers
    )
    header = check_training(job, CHANCE)
    assert header["shape"]["image_width"] == fake.embedding_width
    assert ("words" in header) == (method == "cirplant")
    assert "image" not in header


@pytest.mark.parametrize(("method", "numbers"), END_TO_END, ids=name_of)
def test_a_training_with_its_trunk_learns(method, numbers, tiny, picture_refs, tmp_path):
    job = make_training_job(
        method, tiny, picture_refs(32), tmp_path / "a.safetensors", epochs=25, **numbers
    )
    header = check_training(job, CHANCE)
    assert header["shape"]["trunk"] == "tiny"
    assert set(WORDINGS[1].split()) <= set(header["words"])
    assert header["image"]["size"] == 48


def train_epochs(job, count):
    """Networks before the first and after each of so many epochs, and the learner."""
    network, words = training.start(job)
    towers = (
        training.OwnTowers(job, words) if job.trunk else training.FrozenTowers(job, words, QUIET)
    )
    learner = training.make_learner(job, network)
    found = [{name: t.clone() for name, t in network.state_dict().items()}]
    for epoch in range(count):
        training._train_epoch(learner, job, towers, epoch)
        found.append({name: t.clone() for name, t in network.state_dict().items()})
    return found, learner


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_in_artemis_first_stage_trunk_and_words_stay_and_batch_norms_move(
    tiny, picture_refs, tmp_path
):
    job = make_training_job("artemis", tiny, picture_refs(32), tmp_path / "a.safetensors")
    (start, first, second, third), learner = train_epochs(job, 3)
    frozen = {
        name
        for name, _ in learner.network.named_parameters()
        if name.startswith(("trunk.", "text.embedding."))
    }
    assert "text.embedding.weight" in frozen
    statistics = {name for name in start if name.endswith(("running_mean", "running_var"))}
    assert len(statistics) > 10
    for before, after in ((start, first), (first, second)):
        assert not moved(before, after) & frozen
        assert statistics <= moved(before, after)
        assert {"image_projection.weight", "transform.weight"} <= moved(before, after)
    assert frozen <= moved(second, third) | {"text.embedding.weight"}
    assert "text.embedding.weight" in moved(second, third)


def test_artemis_second_stage_has_the_firsts_moments_and_none_for_what_was_frozen(
    tiny, picture_refs, tmp_path
):
    job = make_training_job("artemis", tiny, picture_refs(32), tmp_path / "a.safetensors")
    steps = len(job.examples) // 8
    _, learner = train_epochs(job, 3)
    taken = {
        name: int(learner.optimizer.state[parameter]["step"])
        for name, parameter in learner.network.named_parameters()
    }
    late = {n: s for n, s in taken.items() if n.startswith(("trunk.", "text.embedding."))}
    assert set(late.values()) == {steps}
    assert {taken[name] for name in taken.keys() - late.keys()} == {3 * steps}


def record_rates(job, count, monkeypatch):
    """Of each step the rates by share."""
    found = []
    original = training._take_step

    def look(learner, *arguments):
        groups = learner.optimizer.param_groups
        found.append({group["share"]: group["lr"] for group in groups})
        return original(learner, *arguments)

    monkeypatch.setattr(training, "_take_step", look)
    train_epochs(job, count)
    return found


def test_each_step_has_the_recipes_rate_and_the_slow_parts_a_tenth(
    tiny, picture_refs, tmp_path, monkeypatch
):
    job = make_training_job(
        "tirg", tiny, picture_refs(32), tmp_path / "a.safetensors", drop_every=3
    )
    found = record_rates(job, 2, monkeypatch)
    assert [step[1.0] for step in found] == pytest.approx([0.01] * 3 + [0.001])
    assert [step[0.1] for step in found] == pytest.approx([0.001] * 3 + [0.0001])


def group_of(learner, name):
    parameter = dict(learner.network.named_parameters())[name]
    groups = learner.optimizer.param_groups
    [found] = [group for group in groups if any(p is parameter for p in group["params"])]
    return found


@pytest.mark.parametrize(
    ("method", "slow", "fast"),
    [
        ("tirg", ("trunk.conv1.weight",), ("image_projection.weight", "scale", "fusion.weights")),
        ("maaf", ("trunk.conv1.weight", "projections.0.conv.weight"), ("norm.gain", "scale")),
        ("artemis", (), ("trunk.conv1.weight", "text.embedding.weight", "temperature")),
    ],
)
def test_what_learns_slowly(method, slow, fast, tiny, picture_refs, tmp_path):
    job = make_training_job(method, tiny, picture_refs(32), tmp_path / "a.safetensors")
    learner = training.make_learner(job, training.start(job)[0])
    assert {group_of(learner, name)["share"] for name in slow} == ({0.1} if slow else set())
    assert {group_of(learner, name)["share"] for name in fast} == {1.0}
    in_groups = sum(len(group["params"]) for group in learner.optimizer.param_groups)
    assert in_groups == len(list(learner.network.parameters()))


def test_over_frozen_features_nothing_learns_slowly(fake, picture_refs, tmp_path):
    job = make_training_job("maaf", fake, picture_refs(32), tmp_path / "a.safetensors")
    learner = training.make_learner(job, training.start(job)[0])
    assert {group["share"] for group in learner.optimizer.param_groups} == {1.0}


@pytest.mark.parametrize(
    ("method", "optimizer", "settings"),
    [
        ("tirg", torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ("maaf", torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ("artemis", torch.optim.AdamW, {"eps": 1e-8, "betas": (0.9, 0.999)}),
        ("cirplant", torch.optim.AdamW, {"eps": 1e-8, "betas": (0.9, 0.999)}),
    ],
)
def test_the_papers_optimizers(method, optimizer, settings, fake, picture_refs, tmp_path):
    job = make_training_job(method, fake, picture_refs(32), tmp_path / "a.safetensors")
    made = training.make_learner(job, training.start(job)[0]).optimizer
    assert type(made) is optimizer
    for group in made.param_groups:
        assert {name: group[name] for name in settings} == settings


def test_of_cirplant_all_but_biases_and_layer_norms_decay(fake, picture_refs, tmp_path):
    job = make_training_job("cirplant", fake, picture_refs(32), tmp_path / "a.safetensors")
    network, _ = training.start(job)
    learner = training.make_learner(job, network)
    norms = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.LayerNorm)}
    assert len(norms) == 3
    for name, _ in network.named_parameters():
        decay = group_of(learner, name)["weight_decay"]
        assert decay == (0.0 if name in norms or name.endswith("bias") else 0.05), name


@pytest.mark.parametrize(("method", "norm"), [("cirplant", 1.0), ("artemis", None)])
def test_a_gradient_is_cut_where_the_recipe_says_so(
    method, norm, fake, picture_refs, tmp_path, monkeypatch
):
    job = make_training_job(method, fake, picture_refs(32), tmp_path / "a.safetensors")
    found = []

    def look(optimizer):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        found.append(torch.cat([g.flatten() for g in grads if g is not None]).norm().item())

    monkeypatch.setattr(job.method.network_type, "compute_loss", exaggerate(job.method))
    monkeypatch.setattr(training.Learner, "step", lambda learner: look(learner.optimizer))
    train_epochs(job, 1)
    if norm:
        assert found == pytest.approx([norm] * len(found), rel=1e-3)
    else:
        assert min(found) > 10


def exaggerate(method):
    original = method.network_type.compute_loss
    return lambda network, batch: 1000 * original(network, batch)


def stop_before(monkeypatch, epoch):
    original = training._train_epoch

    def stop(*arguments):
        if arguments[-1] == epoch:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "_train_epoch", stop)


RESUMED = [
    ("tirg", "fake", 2),
    ("cirplant", "fake", 3),
    ("artemis", "fake", 3),
    ("maaf", "tiny", 1),
    ("tirg", "tiny", 4),
    *(("artemis", "tiny", epoch) for epoch in (1, 2, 3)),  # the second stage begins at 2
]


@pytest.mark.parametrize(("method", "backbone", "epoch"), RESUMED)
def test_interrupt_and_resume_give_the_same_bits(
    method, backbone, epoch, picture_refs, tmp_path, monkeypatch
):
    unbroken, broken = (
        make_training_job(
            method, load_backbone(backbone), picture_refs(32), tmp_path / f"{name}.safetensors"
        )
        for name in "ab"
    )
    training.train(unbroken, QUIET)
    with monkeypatch.context() as patched:
        stop_before(patched, epoch)
        with pytest.raises(KeyboardInterrupt):
            training.train(broken, QUIET)
    with pytest.raises(UsageError, match="pass --resume to continue it"):
        training.train(broken, QUIET)
    training.train(broken, QUIET, resume=True)
    first, second = (read_checkpoint(job.output) for job in (unbroken, broken))
    assert all(torch.equal(first.content[name], second.content[name]) for name in first.content)
    assert first.provenance == second.provenance
    assert read_log(unbroken) == read_log(broken)
    assert len(read_log(broken)) == 5


def test_the_unbroken_training_is_a_function_of_the_seed(fake, picture_refs, tmp_path):
    def train(name, **numbers):
        refs, output = picture_refs(32), tmp_path / f"{name}.safetensors"
        torch.manual_seed(len(name))
        job = make_training_job("artemis", fake, refs, output, epochs=3, **numbers)
        training.train(job, QUIET)
        return read_checkpoint(output).content["image_projection.weight"]

    first = train("a")
    assert torch.equal(train("bb"), first)
    assert not torch.equal(train("ccc", seed=1), first)


def test_dropouts_are_a_function_of_seed_and_epoch(fake, picture_refs, tmp_path, monkeypatch):
    drawn = []

    def look(network, batch):
        drawn.append(torch.rand(1).item())
        return original(network, batch)

    def draw(seed):
        drawn.clear()
        job = make_training_job("maaf", fake, picture_refs(32), tmp_path / "a", seed=seed)
        torch.manual_seed(len(found))
        train_epochs(job, 3)
        return list(drawn)

    found = []
    network_type = training.find_method("maaf").network_type
    original = network_type.compute_loss
    monkeypatch.setattr(network_type, "compute_loss", look)
    found += [draw(0)]
    found += [draw(0)]
    assert found[0] == found[1]
    assert len({*found[0], *draw(1)}) == 12


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"learning_rate": 0.5}, r"recipe.learning_rate: 0.01 then, 0.5 now"),
        ({"fusion": "concat"}, r"recipe.fusion: vector then, concat now"),
        ({"seed": 4}, r"recipe.seed: 0 then, 4 now"),
    ],
)
def test_a_resume_with_another_recipe_names_the_difference(
    numbers, words, fake, picture_refs, tmp_path
):
    job = make_training_job("tirg", fake, picture_refs(32), tmp_path / "a.safetensors")
    learner = training.make_learner(job, training.start(job)[0])
    epochs.save_state(epochs.state_path_of(job.output), learner, {**job.identity(), "epochs": 0})
    other = replace(job, recipe=replace(job.recipe, **numbers))
    with pytest.raises(UsageError, match=words):
        training.train(other, QUIET, resume=True)


def test_a_resume_over_another_backbone_or_another_system_is_refused(
    fake, tiny, picture_refs, tmp_path
):
    job = make_training_job("tirg", fake, picture_refs(32), tmp_path / "a.safetensors")
    learner = training.make_learner(job, training.start(job)[0])
    epochs.save_state(epochs.state_path_of(job.output), learner, {**job.identity(), "epochs": 0})
    with pytest.raises(UsageError, match=r"backbone\.name: fake then, tiny now"):
        training.train(replace(job, backbone=tiny), QUIET, resume=True)
    other = make_training_job("artemis", fake, picture_refs(32), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="belongs to another training"):
        training.train(other, QUIET, resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_state(
    fake, picture_refs, tmp_path, monkeypatch
):
    job = make_training_job("tirg", fake, picture_refs(32), tmp_path / "a.safetensors")
    original = job.method.network_type.compute_loss
    steps = []

    def spoil(network, batch):
        steps.append(batch)
        return original(network, batch) * (1 if len(steps) <= 2 else torch.nan)

    monkeypatch.setattr(job.method.network_type, "compute_loss", spoil)
    with pytest.raises(CheckFailed, match=r"must be finite, got nan in epoch 2; --resume"):
        training.train(job, QUIET)
    assert not job.output.exists()
    assert epochs.state_path_of(job.output).exists()


def test_a_trunk_can_be_kept_frozen(tiny, picture_refs, tmp_path):
    job = make_training_job(
        "artemis", tiny, picture_refs(32), tmp_path / "a.safetensors", frozen=True
    )
    training.train(job, QUIET)
    header = read_checkpoint(job.output).provenance
    assert (header["shape"]["trunk"], header["shape"]["image_width"]) == (None, 107)
    assert header["words"]
    assert header["backbone"]["name"] == "tiny"


def test_cirplant_never_trains_a_trunk(tiny, picture_refs, tmp_path):
    job = make_training_job("cirplant", tiny, picture_refs(32), tmp_path / "a.safetensors")
    assert job.trunk is None
    training.train(job, QUIET)
    assert read_checkpoint(job.output).provenance["shape"]["image_width"] == 107


def test_the_trained_trunk_begins_with_the_backbones_weights(tiny, picture_refs, tmp_path):
    job = make_training_job("tirg", tiny, picture_refs(8), tmp_path / "a.safetensors", seed=9)
    network, _ = training.start(job)
    own = network.trunk.state_dict()
    assert all(torch.equal(own[name], t) for name, t in tiny.state_dict().items())
    assert own["conv1.weight"].data_ptr() != tiny.state_dict()["conv1.weight"].data_ptr()


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
def test_a_trunk_learns_in_fp32_alone(precision, picture_refs, tmp_path):
    backbone = load_backbone("tiny", precision=precision)
    job = make_training_job("tirg", backbone, picture_refs(8), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=f"fp32 alone, got {precision}"):
        training.train(job, QUIET)


@pytest.mark.parametrize(
    ("method", "backbone", "numbers", "words"),
    [
        ("tirg", "fake", {"fusion": "sum"}, "fusion must be one of .*, got 'sum'"),
        ("tirg", "fake", {"fusion": "last-conv"}, "over frozen features use vector"),
        ("tirg", "fake", {"loss": "hinge"}, "loss must be one of .*, got 'hinge'"),
        ("artemis", "fake", {"text_tower": "gru"}, "text_tower must be one of .*, got 'gru'"),
        ("artemis", "fake", {"width": 15}, "width must be even, got 15"),
        ("maaf", "fake", {"heads": 3}, "width must be a multiple of 3 heads, got 16"),
        ("tirg", "tiny", {"augmentation": "blur"}, "unknown augmentation 'blur'; known: none,"),
        ("cirplant", "fake", {"heads": 3}, "16"),
        ("cirplant", "fake", {"dropout": 2.0}, "dropout"),
    ],
)
def test_what_makes_no_network_is_a_plain_message(
    method, backbone, numbers, words, picture_refs, tmp_path
):
    job = make_training_job(
        method, load_backbone(backbone), picture_refs(8), tmp_path / "a.safetensors", **numbers
    )
    with pytest.raises(UsageError, match=words):
        training.train(job, QUIET)


@pytest.mark.parametrize("backbone", ["fake", "tiny"])
@pytest.mark.parametrize("method", SMALL)
def test_empty_captions_are_trained_on(method, backbone, picture_refs, tmp_path):
    job = make_training_job(
        method, load_backbone(backbone), picture_refs(16), tmp_path / "a.safetensors", epochs=3
    )
    empty = [replace(t, captions=("",), fields=({"what": ""},)) for t in job.triplets]
    training.train(replace(job, triplets=empty), QUIET)
    assert read_checkpoint(job.output).provenance["kind"] == method


@pytest.mark.parametrize("backbone", ["fake", "tiny"])
@pytest.mark.parametrize("method", SMALL)
def test_a_batch_larger_than_the_set_is_the_set(method, backbone, picture_refs, tmp_path):
    job = make_training_job(
        method, load_backbone(backbone), picture_refs(8), tmp_path / "a.safetensors", epochs=3
    )
    job = replace(job, recipe=replace(job.recipe, batch_size=4096))
    training.train(job, QUIET)


def test_a_selection_of_another_metric_is_what_is_judged_by(fake, picture_refs, tmp_path):
    job = make_training_job("tirg", fake, picture_refs(32), tmp_path / "a.safetensors")
    selection = Selection(split="val", protocol=job.selection.protocol, metrics=("R@50",))
    assert training.train(replace(job, selection=selection), QUIET) == 100


SCRIPT = """
import sys
from cirbench.benchmark.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
main()
"""


def test_kill_9_between_artemis_stages_and_resume_give_the_same_bits(tmp_path):
    def command(name, *more):
        numbers = {"first-epochs": 1, "epochs": 1, "batch-size": 512, "width": 16, "word-width": 8}
        options = [text for key, value in numbers.items() for text in (f"--{key}", str(value))]
        output = str(tmp_path / f"{name}.safetensors")
        arguments = ["train", "artemis", "-t", "emoji", "-b", "tiny", "-q", "-o", output]
        return [sys.executable, "-P", "-c", SCRIPT, *arguments, *options, *more]

    subprocess.run(command("a"), check=True, capture_output=True)
    log = tmp_path / "b.log.csv"
    with subprocess.Popen(command("b")) as process:
        while not (log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 1):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    subprocess.run(command("b", "--resume"), check=True, capture_output=True)
    first, second = (read_checkpoint(tmp_path / f"{n}.safetensors").content for n in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_state_of_another_network_is_refused(fake, picture_refs, tmp_path):
    job = make_training_job("tirg", fake, picture_refs(32), tmp_path / "a.safetensors")
    path = epochs.state_path_of(job.output)
    write_checkpoint(path, {"network.x": torch.ones(1)}, {**job.identity(), "epochs": 1})
    with pytest.raises(CorruptData, match="delete the file to start over"):
        training.train(job, QUIET, resume=True)
