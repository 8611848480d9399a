"""The mapping network, its checkpoints, and its training."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from patience import PATIENCE_SECONDS
from PIL import Image

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint, write_checkpoint
from cirbench.benchmark.images.reading import find_images_in_folder
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.schedule import warm_up_then_cosine
from cirbench.methods.pic2word import training
from cirbench.methods.pic2word.batches import TrainingPictures, random_crop
from cirbench.methods.pic2word.method import (
    MappingNetwork,
    Pic2Word,
    _is_equal,
    contrastive_loss,
)

QUIET = Reporter(quiet=True)


def test_the_network_has_the_released_names_shapes_and_size():
    network = MappingNetwork(768, 768)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert list(shapes.items()) == [
        ("fc_out.weight", (768, 512)),
        ("fc_out.bias", (768,)),
        ("layers.0.0.weight", (512, 768)),
        ("layers.0.0.bias", (512,)),
        ("layers.1.0.weight", (512, 512)),
        ("layers.1.0.bias", (512,)),
    ]
    assert sum(p.numel() for p in network.parameters()) == 1_050_368


def test_the_forward_pass_is_the_papers_formula():
    network = MappingNetwork(5, 3, middle=4).eval()
    w = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    v = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    hidden = v
    for i in range(2):
        hidden = np.maximum(hidden @ w[f"layers.{i}.0.weight"].T + w[f"layers.{i}.0.bias"], 0)
    expected = hidden @ w["fc_out.weight"].T + w["fc_out.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(v)), expected, atol=1e-6)


def test_the_loss_is_the_mean_of_both_directions():
    rng = np.random.default_rng(0)
    v, t = rng.normal(size=(2, 4, 6))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, t)]
    logits = 7.0 * unit[0] @ unit[1].T
    p = np.exp(logits)
    expected = -np.mean([np.log(np.diag(p) / p.sum(1)), np.log(np.diag(p) / p.sum(0))])
    assert contrastive_loss(torch.tensor(v), torch.tensor(t), 7.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_released_layout_loads(tmp_path, fake, prefix, layers):
    source = MappingNetwork(fake.embedding_width, fake.token_width, middle=7, layers=layers)
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    lr = np.float64(1e-4)
    path = tmp_path / "pic2word_model.pt"
    torch.save(
        {
            "epoch": 30,
            "name": "run",
            "state_dict": {prefix + "logit_scale": torch.ones(())},
            "state_dict_img2text": weights,
            "optimizer": {"param_groups": [{"lr": lr}]},
        },
        path,
    )
    method = Pic2Word.build(backbone=fake, checkpoint=read_checkpoint(path))
    v = torch.randn(3, fake.embedding_width)
    with torch.no_grad():
        assert torch.equal(method.mapper(v), source.eval()(v))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda clip: clip, ""),
        (lambda clip: {f"module.{name}": t for name, t in clip.items()}, ""),
        (
            lambda clip: {**clip, "text.bias": clip["text.bias"] + 1},
            "of 5 weights differ, .*text.bias",
        ),
        (lambda clip: {f"other.{name}": t for name, t in clip.items()}, "can't be compared"),
    ],
)
def test_the_clip_that_a_checkpoint_carries_is_compared(tmp_path, fake, change, words):
    mapper = MappingNetwork(fake.embedding_width, fake.token_width).state_dict()
    carried = change(dict(fake.state_dict()))
    torch.save({"state_dict": carried, "state_dict_img2text": mapper}, tmp_path / "released.pt")
    method = Pic2Word.build(backbone=fake, checkpoint=read_checkpoint(tmp_path / "released.pt"))
    assert len(method.remarks) == bool(words)
    assert re.search(words, "".join(method.remarks))


@pytest.mark.parametrize(("weights", "said"), [("of-another", True), (None, False), (0, False)])
def test_what_was_trained_over_other_towers_says_so(tmp_path, fake, weights, said):
    mapper = MappingNetwork(fake.embedding_width, fake.token_width).state_dict()
    over = {"name": "ViT-X", "weights": fake.weights_sha256 if weights == 0 else weights}
    write_checkpoint(tmp_path / "m.safetensors", mapper, {"backbone": over})
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    method = Pic2Word.build(backbone=fake, checkpoint=checkpoint)
    assert [remark for remark in method.remarks if "trained over ViT-X" in remark] == list(
        method.remarks
    )
    assert bool(method.remarks) == said


def test_weights_published_in_half_precision_are_the_same_in_single(fake):
    weights = {"a": torch.randn(3).half()}
    assert _is_equal(weights["a"].float(), weights["a"])
    assert not _is_equal(weights["a"].float(), weights["a"] * 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Combiner": {"output_layer.weight": torch.ones(2, 2)}}, "its keys are Combiner"),
        (
            {"fc_out.weight": torch.ones(3, 4)},
            "weights of a Pic2Word mapping network .*keys are fc_",
        ),
        ({"epoch": 3}, "its keys are epoch"),
    ],
)
def test_another_kind_of_checkpoint_is_refused(tmp_path, fake, content, words):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CorruptData, match=words):
        Pic2Word.build(backbone=fake, checkpoint=read_checkpoint(tmp_path / "other.pt"))


def test_a_checkpoint_of_another_backbone_is_refused_with_the_numbers(tmp_path, fake):
    torch.save(MappingNetwork(768, 768).state_dict(), tmp_path / "large.pt")
    with pytest.raises(CorruptData, match=r"768 to words of width\n? ?768; fake has 32 and 24"):
        Pic2Word.build(backbone=fake, checkpoint=read_checkpoint(tmp_path / "large.pt"))


def job(folder, output, **recipe):
    defaults = {
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "middle_width": 16,
    }
    return training.Pic2WordJob(
        recipe=training.Pic2WordRecipe(**{**defaults, **recipe}),
        backbone=load_backbone("fake"),
        images=find_images_in_folder(folder),
        trained_on="pictures",
        output=output,
        checkpoint_every=2,
    )


def pictures_of(made):
    return TrainingPictures(refs=made.images, most_unreadable=made.most_unreadable)


def weights(path):
    return read_checkpoint(path).content


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_schedule_warms_up_and_ends_at_zero():
    rates = [warm_up_then_cosine(step, 10, peak=2.0, warmup=4) for step in range(11)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[7] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(0.0)


def test_biases_do_not_decay():
    optimizer = training.make_optimizer(
        MappingNetwork(4, 4), training.Pic2WordRecipe(), "ViT-L-14/openai"
    )
    decayed = {
        group["weight_decay"]: [p.dim() for p in group["params"]]
        for group in optimizer.param_groups
    }
    assert decayed == {0.0: [1, 1, 1], 0.1: [2, 2, 2]}
    assert optimizer.defaults["betas"] == (0.9, 0.98)
    assert training.make_optimizer(
        MappingNetwork(4, 4), training.Pic2WordRecipe(), "RN50/openai"
    ).defaults["betas"] == (0.9, 0.999)


def test_training_lowers_the_loss_and_logs_it(picture_folder, tmp_path):
    output = tmp_path / "mapper.safetensors"
    last = training.train(job(picture_folder, output, epochs=20), QUIET)
    with output.with_suffix(".log.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 60
    assert losses[-1] == last
    assert last < 0.5 * losses[0]
    assert not output.with_suffix(".state.safetensors").exists()
    header = read_checkpoint(output).provenance
    assert header["recipe"]["learning_rate"] == 1e-2
    assert header["images"]["count"] == 24
    assert header["backbone"]["weights"] == load_backbone("fake").weights_sha256


def test_the_seed_decides_the_weights(picture_folder, tmp_path):
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    training.train(job(picture_folder, a), QUIET)
    training.train(replace(job(picture_folder, b), workers=1), QUIET)
    training.train(job(picture_folder, c, seed=1), QUIET)
    assert_same_weights(weights(a), weights(b))
    assert not torch.equal(weights(a)["fc_out.bias"], weights(c)["fc_out.bias"])


@pytest.mark.parametrize("steps_done", [1, 4, 11])
def test_interrupt_and_resume_give_the_same_bits(picture_folder, tmp_path, monkeypatch, steps_done):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    training.train(job(picture_folder, whole), QUIET)
    real = training.compute_gradient

    def interrupted(mapper, one_job, pixels, step):
        if step == steps_done:
            raise KeyboardInterrupt
        return real(mapper, one_job, pixels, step)

    monkeypatch.setattr(training, "compute_gradient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(job(picture_folder, broken), QUIET)
    monkeypatch.undo()
    assert not broken.exists()
    training.train(job(picture_folder, broken), QUIET, resume=True)
    assert_same_weights(weights(whole), weights(broken))
    assert whole.with_suffix(".log.csv").read_text(encoding="utf-8") == broken.with_suffix(
        ".log.csv"
    ).read_text(encoding="utf-8")


def test_a_signal_within_a_step_waits_for_its_end(picture_folder, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    training.train(job(picture_folder, whole), QUIET)
    real = training.compute_gradient

    def signalled(mapper, one_job, pixels, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(mapper, one_job, pixels, step)

    monkeypatch.setattr(training, "compute_gradient", signalled)
    with pytest.raises(KeyboardInterrupt):
        training.train(job(picture_folder, broken), QUIET)
    monkeypatch.undo()
    state = broken.with_suffix(".state.safetensors")
    assert read_checkpoint(state).provenance["step"] == 5
    with pytest.raises(UsageError, match="pass --resume to continue it"):
        training.train(job(picture_folder, broken), QUIET)
    training.train(job(picture_folder, broken), QUIET, resume=True)
    assert_same_weights(weights(whole), weights(broken))


def test_a_terminated_training_keeps_its_last_step(picture_folder, tmp_path):
    output = tmp_path / "mapper.safetensors"
    command = [
        sys.executable,
        "-P",
        "-c",
        "from cirbench.benchmark.cli.main import main; main()",
        "train",
        "pic2word",
        "--images",
        str(picture_folder),
        "-b",
        "fake",
        "-o",
        str(output),
        "--epochs",
        "4000",
        "--batch-size",
        "8",
        "--checkpoint-every",
        "5",
    ]
    state = output.with_suffix(".state.safetensors")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        while not state.exists():
            assert process.poll() is None
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    steps = read_checkpoint(state).provenance["step"]
    assert f"interrupted after step {steps}; the same command with --resume continues" in said
    assert len(output.with_suffix(".log.csv").read_text(encoding="utf-8").splitlines()) == 1 + steps


def test_kill_and_resume_give_the_same_bits(picture_folder, tmp_path):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    code = (
        "import sys; from pathlib import Path; "
        "from cirbench.benchmark.backbones.load import load_backbone; "
        "from cirbench.benchmark.images.reading import find_images_in_folder; "
        "from cirbench.benchmark.runtime.progress import Reporter; "
        "from cirbench.methods.pic2word.training import Pic2WordJob, Pic2WordRecipe, train; "
        "recipe = Pic2WordRecipe(epochs=4000, batch_size=8, warmup_steps=2, middle_width=16); "
        "train(Pic2WordJob(recipe=recipe, "
        "backbone=load_backbone('fake'), images=find_images_in_folder(Path(sys.argv[1])), "
        "trained_on='pictures', output=Path(sys.argv[2]), checkpoint_every=3), "
        "Reporter(quiet=True))"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code, picture_folder, broken])
    state = broken.with_suffix(".state.safetensors")
    while not state.exists():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = read_checkpoint(state).provenance["step"]
    epochs = done // 3 + 2

    def finite(output):
        recipe = training.Pic2WordRecipe(epochs=4000, batch_size=8, warmup_steps=2, middle_width=16)
        return replace(job(picture_folder, output), recipe=recipe, checkpoint_every=1)

    class Enough(Exception):
        pass

    def stop_at(total):
        real = training.compute_gradient

        def limited(mapper, one_job, pixels, step):
            if step == total:
                raise Enough
            return real(mapper, one_job, pixels, step)

        return limited

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "compute_gradient", stop_at(3 * epochs))
        with pytest.raises(Enough):
            training.train(finite(broken), QUIET, resume=True)
        patch.undo()
        patch.setattr(training, "compute_gradient", stop_at(3 * epochs))
        with pytest.raises(Enough):
            training.train(finite(whole), QUIET)
    assert_same_weights(weights(whole.with_suffix(".state.safetensors")), weights(state))


def test_a_resume_with_another_recipe_names_the_difference(picture_folder, tmp_path, monkeypatch):
    output = tmp_path / "mapper.safetensors"

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "compute_gradient", fail)
    with pytest.raises(KeyboardInterrupt):
        training.train(job(picture_folder, output), QUIET)
    with pytest.raises(UsageError, match=r"learning_rate: 0\.01 then, 0\.5 now"):
        training.train(job(picture_folder, output, learning_rate=0.5), QUIET, resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    picture_folder, tmp_path, monkeypatch
):
    output = tmp_path / "mapper.safetensors"
    real = training.compute_gradient

    def broken(mapper, one_job, pixels, step):
        loss = real(mapper, one_job, pixels, step)
        return loss * torch.nan if step == 5 else loss

    monkeypatch.setattr(training, "compute_gradient", broken)
    with pytest.raises(CheckFailed, match="step 6"):
        training.train(job(picture_folder, output), QUIET)
    assert not output.exists()
    assert read_checkpoint(output.with_suffix(".state.safetensors")).provenance["step"] == 4


def test_too_few_pictures_for_a_batch(picture_folder, tmp_path):
    with pytest.raises(UsageError, match="got 25 of 24"):
        training.train(job(picture_folder, tmp_path / "m.safetensors", batch_size=25), QUIET)


def test_the_towers_get_no_gradients(picture_folder, tmp_path):
    one = job(picture_folder, tmp_path / "m.safetensors")
    learner = training.make_learner(one)
    images = next(training.embed_steps(one, pictures_of(one), 0))
    training.compute_gradient(learner, one, images, 0)
    assert all(p.grad is not None for p in learner.network.parameters())
    assert all(p.grad is None for p in one.backbone.parameters())


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
@pytest.mark.parametrize("seed", range(5))
def test_a_part_of_a_picture_is_drawn_and_resized_bicubically_in_its_own_mode(mode, seed):
    pixels = np.random.default_rng(9).integers(0, 255, (90, 100, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    found = random_crop(image, 32, (0.2, 0.5), np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    area = 90 * 100 * rng.uniform(0.2, 0.5)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    top, left = int(rng.integers(91 - height)), int(rng.integers(101 - width))
    part = image.crop((left, top, left + width, top + height))
    assert found == part.resize((32, 32), Image.Resampling.BICUBIC)


def test_every_epoch_sees_each_picture_once_in_another_order(picture_folder, tmp_path):
    one = job(picture_folder, tmp_path / "m.safetensors", crop_scale=(1.0, 1.0), epochs=2)
    seen = [
        float(v.sum()) for batch in training.embed_steps(one, pictures_of(one), 0) for v in batch
    ]
    first, second = seen[:24], seen[24:]
    assert len(set(first)) == 24
    assert first != second
