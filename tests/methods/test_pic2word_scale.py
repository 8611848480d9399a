"""Pic2Word's training at scale: pieces, processes, shards, tables, unreadable pictures."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from patience import PATIENCE_SECONDS
from places import ROOT

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.images.reading import find_images_in_folder
from cirbench.benchmark.images.shards import ShardImages, find_shards
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.learner import Learner
from cirbench.benchmark.training.order import choose_rows
from cirbench.benchmark.training.processes import Processes, choose_own_device, join_processes
from cirbench.methods.pic2word import training
from cirbench.methods.pic2word.gradient import GradientStep, draw_dropout_masks
from cirbench.methods.pic2word.method import MappingNetwork, contrastive_loss
from cirbench.methods.pic2word.validation import hold_out, read_validations, validate

QUIET = Reporter(quiet=True)
BATCH, SEED = 12, 7


def network(fake):
    torch.manual_seed(0)
    return MappingNetwork(fake.embedding_width, fake.token_width, middle=16).train()


def images(fake):
    return torch.randn(BATCH, fake.embedding_width, generator=torch.Generator().manual_seed(1))


def step(fake, mapper, **changes):
    masks = draw_dropout_masks(mapper, BATCH, SEED)
    return GradientStep(
        network=mapper,
        backbone=fake,
        prompt="a photo of *",
        images=images(fake),
        masks=masks,
        **{"processes": Processes(), **changes},
    )


def gradients(mapper):
    return torch.cat([p.grad.flatten() for p in mapper.parameters()])


def plain(fake):
    """Loss and gradient with nn.Dropout itself and one backward pass."""
    mapper = network(fake)
    torch.manual_seed(SEED)
    words = mapper(images(fake))
    texts = fake.encode_prompts(["a photo of *"] * BATCH, words)
    loss = contrastive_loss(images(fake), texts, fake.logit_scale)
    loss.backward()
    return loss.detach(), gradients(mapper)


@pytest.mark.parametrize("piece", [None, BATCH, 5, 4, 1])
def test_pieces_have_the_big_batchs_loss_and_gradient(fake, piece):
    mapper = network(fake)
    loss = step(fake, mapper, piece=piece).backward()
    wanted_loss, wanted = plain(fake)
    assert torch.allclose(loss, wanted_loss, atol=1e-5)
    assert torch.allclose(gradients(mapper), wanted, atol=1e-5)


def test_one_process_in_one_piece_has_the_very_bits_of_dropout(fake):
    mapper = network(fake)
    step(fake, mapper).backward()
    assert torch.equal(gradients(mapper), plain(fake)[1])


def test_without_the_same_masks_the_gradient_is_another(fake):
    mapper = network(fake)
    masks = draw_dropout_masks(mapper, BATCH, SEED + 1)
    replace(step(fake, mapper, piece=4), masks=masks).backward()
    assert not torch.allclose(gradients(mapper), plain(fake)[1], atol=1e-3)


WORKER = """
import os, sys, torch
sys.path[:0] = sys.argv[1].split(os.pathsep)
import test_pic2word_scale as t
from cirbench.benchmark.training.processes import join_processes
fake = t.load_backbone("fake")
processes = join_processes("cpu")
mapper = t.network(fake)
own = processes.choose_rows(t.BATCH)
one = t.step(fake, mapper, processes=processes, piece=int(sys.argv[3]) or None,
             released_gather=sys.argv[4] == "released")
loss = t.replace(one, images=one.images[own]).backward()
torch.save({"loss": loss, "gradient": t.gradients(mapper)}, f"{sys.argv[2]}/{processes.rank}.pt")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_ranks(command, count=2):
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(count)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", *command],
            env={**os.environ, **meeting, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(count)
    ]
    assert [rank.wait(PATIENCE_SECONDS) for rank in ranks] == [0] * count


@pytest.mark.parametrize(("piece", "gather"), [("0", "exact"), ("4", "exact"), ("0", "released")])
def test_two_processes_have_the_single_ones_loss_and_gradient(fake, tmp_path, piece, gather):
    tests = os.pathsep.join(str(ROOT / "tests" / part) for part in ("methods", "support"))
    start_ranks(["-c", WORKER, tests, str(tmp_path), piece, gather])
    wanted_loss, wanted = plain(fake)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(found["loss"], wanted_loss, atol=1e-5)
        scale = 2 if gather == "released" else 1
        assert torch.allclose(scale * found["gradient"], wanted, atol=1e-5)


def train_command(folder, output, *more):
    code = "from cirbench.benchmark.cli.main import main; main()"
    return [
        "-c",
        code,
        "train",
        "pic2word",
        "--images",
        str(folder),
        "-b",
        "fake",
        "-o",
        str(output),
        "--epochs",
        "3",
        "--batch-size",
        "8",
        "--warmup",
        "2",
        "--lr",
        "0.01",
        "-q",
        *more,
    ]


def test_a_training_in_two_processes_has_the_losses_of_one(picture_folder, tmp_path):
    """Each step's loss from the same weights, which a learning rate of 0 leaves as they are: where
    they move, AdamW makes whole steps of the last digits of gradients near 0."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    still = ("--lr", "0")
    subprocess.run([sys.executable, "-P", *train_command(picture_folder, one, *still)], check=True)
    start_ranks(train_command(picture_folder, two, *still, "--micro-batch", "3"))
    losses = [
        np.loadtxt(path.with_suffix(".log.csv"), delimiter=",", skiprows=1) for path in (one, two)
    ]
    assert losses[0].shape == (9, 2)
    assert np.unique(losses[0][:, 1]).size == 9, "steps see different pictures"
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)


def test_a_training_in_two_processes_ends(picture_folder, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    subprocess.run([sys.executable, "-P", *train_command(picture_folder, one)], check=True)
    start_ranks(train_command(picture_folder, two, "--micro-batch", "3"))
    first, second = (read_checkpoint(path) for path in (one, two))
    assert first.provenance["recipe"] == second.provenance["recipe"]
    assert {name: t.shape for name, t in first.content.items()} == {
        name: t.shape for name, t in second.content.items()
    }
    assert one.with_suffix(".loss.png").stat().st_size > 5000


def test_processes_are_as_the_environment_says(monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "MASTER_ADDR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join_processes("cpu") == Processes()
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        join_processes("cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_own_device("cuda", Processes(rank=7, count=8)) == "cuda:3"
    assert choose_own_device("cpu", Processes(rank=7, count=8)) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_own_device("cuda", Processes(rank=7, count=8)) == "cuda"
    with pytest.raises(UsageError, match="must be a multiple of the 3 processes"):
        Processes(rank=0, count=3).choose_rows(8)


def recorded_scales(monkeypatch):
    """The loss scale after each step of any learner."""
    scales, real = [], Learner.step

    def step(learner):
        real(learner)
        scales.append(learner.scaler.get_scale())

    monkeypatch.setattr(Learner, "step", step)
    return scales


@pytest.mark.parametrize("precision", ["amp", "amp_bf16", "fp16", "bf16"])
def test_training_in_half_precision_stays_near_the_single_one(
    picture_folder, tmp_path, precision, monkeypatch
):
    scales, losses = recorded_scales(monkeypatch), {}
    for name in ("fp32", precision):
        made = half_job(picture_folder, tmp_path / f"{name}.safetensors", name)
        training.train(made, QUIET)
        losses[name] = training._read_log(made, made.steps)
    assert losses[precision] != losses["fp32"]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)
    float16 = precision in ("amp", "fp16")
    assert set(scales[9:]) == ({2.0**16} if float16 else {1.0})


def test_a_step_that_overflows_is_left_out_and_a_resume_knows_the_scale(
    picture_folder, tmp_path, monkeypatch
):
    real = training.compute_gradient

    def overflowing(learner, one_job, pixels, step):
        loss = real(learner, one_job, pixels, step)
        if step == 3:
            next(iter(learner.network.parameters())).grad[0] = torch.inf
        if step == 6 and stopping:
            raise KeyboardInterrupt
        return loss

    stopping, scales = False, recorded_scales(monkeypatch)
    monkeypatch.setattr(training, "compute_gradient", overflowing)
    whole, broken = (
        half_job(picture_folder, tmp_path / n, "amp") for n in ("w.safetensors", "b.safetensors")
    )
    training.train(whole, QUIET)
    assert scales == [2.0**16] * 3 + [2.0**15] * 6
    stopping = True
    with pytest.raises(KeyboardInterrupt):
        training.train(broken, QUIET)
    stopping = False
    training.train(broken, QUIET, resume=True)
    assert scales[-1] == 2.0**15
    first, second = (read_checkpoint(one.output).content for one in (whole, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_gradient_that_is_never_finite_stops(picture_folder, tmp_path, monkeypatch):
    made = half_job(picture_folder, tmp_path / "m.safetensors", "amp", epochs=20)
    real = training.compute_gradient

    def overflowing(learner, one_job, pixels, step):
        loss = real(learner, one_job, pixels, step)
        next(iter(learner.network.parameters())).grad[0] = torch.inf
        return loss

    monkeypatch.setattr(training, "compute_gradient", overflowing)
    with pytest.raises(CheckFailed, match="not at any loss scale"):
        training.train(made, QUIET)


def half_job(folder, output, precision, epochs=3):
    return training.Pic2WordJob(
        recipe=training.Pic2WordRecipe(
            epochs=epochs, batch_size=8, learning_rate=0.01, warmup_steps=2
        ),
        backbone=load_backbone("emoji-clip", precision=precision),
        images=find_images_in_folder(folder),
        trained_on="pictures",
        output=output,
    )


def test_rows_are_each_epochs_permutation():
    epochs = [
        [row for step in range(3) for row in choose_rows(3 * e + step, 24, 8, 0)] for e in (0, 1)
    ]
    assert [sorted(rows) for rows in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1]


def shard(path, pictures, **others):
    with tarfile.open(path, "w") as tar:
        for name, content in {**pictures, **others}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path, picture):
    folder = tmp_path / "cc3m"
    folder.mkdir()
    for i in range(3):
        pictures = {f"{i}{j:03}.png": picture(10 * i + j) for j in range(4)}
        shard(folder / f"{i:05}.tar", {**pictures, f"{i}000.txt": b"a caption"})
    return folder


def test_a_tasks_name_is_not_a_folder_of_that_name(tmp_path, monkeypatch, picture):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji/one.png").write_bytes(picture(1))
    assert len(find_training_images("emoji")[0]) > 1000
    assert len(find_training_images("./emoji")[0]) == 1


def test_shards_are_read_at_any_place(shards, picture):
    found, label = find_training_images(str(shards))
    assert (len(found), label) == (12, "cc3m")
    assert found[9].read() == picture(21)
    assert [ref.read() for ref in found[10:12]] == [picture(22), picture(23)]
    assert len({ref.id for ref in found}) == 12


def test_shards_are_named_as_the_shell_would(shards):
    everything = find_shards(str(shards))
    assert [path.name for path in everything] == ["00000.tar", "00001.tar", "00002.tar"]
    assert find_shards(f"{shards}/{{00000..00002}}.tar") == everything
    assert find_shards(f"{shards}/*.tar") == everything
    assert find_shards(f"{shards}/00001.tar") == everything[1:2]
    with pytest.raises(MissingData, match=r"00003\.tar"):
        find_shards(f"{shards}/{{00000..00003}}.tar")


def test_a_damaged_shard_and_one_without_pictures(shards, tmp_path):
    (shards / "00001.tar").write_bytes(b"no tar")
    with pytest.raises(CorruptData, match=r"00001\.tar"):
        find_training_images(str(shards))
    shard(tmp_path / "texts.tar", {"a.txt": b"x"})
    with pytest.raises(MissingData, match="no pictures"):
        ShardImages([tmp_path / "texts.tar"])


def test_a_tables_column_and_separator(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "t.csv").write_text("title;image\nx;a.png\n", encoding="utf-8")
    [ref], label = find_training_images(str(tmp_path / "t.csv"), column="image", separator=";")
    assert (ref.read(), label) == (picture(0), "t")
    with pytest.raises(CorruptData, match="no column `filepath`"):
        find_training_images(str(tmp_path / "t.csv"), separator=";")


def job(refs, output, **changes):
    recipe = training.Pic2WordRecipe(
        epochs=3, batch_size=8, warmup_steps=2, middle_width=16, learning_rate=1e-2
    )
    return training.Pic2WordJob(
        **{
            "recipe": recipe,
            "backbone": load_backbone("fake"),
            "images": refs,
            "trained_on": "p",
            "output": output,
            **changes,
        }
    )


def test_shards_train_as_a_folder_does(shards, tmp_path):
    refs, _ = find_training_images(str(shards))
    training.train(job(refs, tmp_path / "m.safetensors"), QUIET)
    assert read_checkpoint(tmp_path / "m.safetensors").provenance["images"]["count"] == 12


def test_unreadable_pictures_are_counted_named_and_replaced(picture_folder, tmp_path):
    for name in ("03.png", "11.png"):
        (picture_folder / name).write_bytes(b"no picture")
    refs = find_images_in_folder(picture_folder)
    with pytest.raises(CorruptData, match=r"got [12] of 24:\n.*png"):
        training.train(job(refs, tmp_path / "a.safetensors"), QUIET)
    for name, workers in (("b", 1), ("c", 4)):
        made = job(refs, tmp_path / f"{name}.safetensors", most_unreadable=0.1, workers=workers)
        training.train(made, QUIET)
    first, second = (read_checkpoint(tmp_path / f"{n}.safetensors") for n in "bc")
    assert first.provenance["unreadable"]["count"] == 2
    assert "03.png" in first.provenance["unreadable"]["first"][0]
    assert all(torch.equal(first.content[n], second.content[n]) for n in first.content)


def test_cached_features_read_each_picture_once_and_train(picture_refs, tmp_path):
    reads = []
    refs = [
        replace(ref, read=lambda r=ref: reads.append(r.id) or r.read()) for ref in picture_refs(24)
    ]
    made = job(refs, tmp_path / "m.safetensors")
    training.train(replace(made, recipe=replace(made.recipe, augment=False)), QUIET)
    assert len(reads) == len(set(reads)) == 24
    assert read_checkpoint(made.output).provenance["recipe"]["augment"] is False


def test_held_out_pictures_are_never_trained_on_and_validated(picture_folder, tmp_path):
    refs = find_images_in_folder(picture_folder)
    trained, left_out = hold_out(refs, 0.25, seed=1)
    names = [{ref.id for ref in part} for part in (trained, left_out)]
    assert (len(trained), len(left_out)) == (18, 6)
    assert not names[0] & names[1]
    assert hold_out(refs, 0.25, seed=1)[1][0].id == left_out[0].id
    assert hold_out(refs, 0.0, seed=1) == (refs, ())
    made = job(trained, tmp_path / "m.safetensors", validation=left_out, validate_every=4)
    made = replace(made, recipe=replace(made.recipe, epochs=6))
    training.train(made, QUIET)
    found = read_validations(made.validation_path, 99)
    assert [one.step for one in found] == [4, 8, 12]
    assert read_checkpoint(made.output).provenance["validation"]["loss"] == found[-1].loss
    assert all(0 <= one.recall_at_1 <= 100 for one in found)


def test_validation_is_without_dropout_and_over_all_at_once(fake):
    mapper = network(fake)
    found = validate(mapper, fake, "a photo of *", images(fake), 3)
    assert mapper.training
    with torch.no_grad():
        texts = fake.encode_prompts(["a photo of *"] * BATCH, mapper.eval()(images(fake)))
    wanted = contrastive_loss(images(fake), texts, fake.logit_scale).item()
    assert found.loss == pytest.approx(wanted, rel=1e-5)


def test_validating_changes_no_weight(picture_folder, tmp_path):
    refs = find_images_in_folder(picture_folder)
    plain = job(refs, tmp_path / "a.safetensors")
    watched = job(refs, tmp_path / "b.safetensors", validation=refs[:5], validate_every=1)
    for made in (plain, watched):
        training.train(made, QUIET)
    first, second = (read_checkpoint(made.output).content for made in (plain, watched))
    assert all(torch.equal(first[name], second[name]) for name in first)
