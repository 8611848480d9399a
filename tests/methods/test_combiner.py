"""The Combiner: its network, its checkpoints, its training."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from triplets import PROTOCOL, make_supervision

from cirbench.benchmark.api.values import ImageRef, Query
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import QueryBatch
from cirbench.benchmark.evaluation.weights import parse_checkpoints
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training import epochs
from cirbench.datasets import cirr, fashion_iq
from cirbench.datasets.emoji.pictures import read_pictures
from cirbench.datasets.emoji.task import Emoji
from cirbench.methods.combiner import training
from cirbench.methods.combiner.method import Combiner, CombinerNetwork, contrastive_loss

QUIET = Reporter(quiet=True)


@pytest.mark.parametrize(
    ("width", "parameters"),
    [(640, 59_003_521), (512, None), (768, 60_314_369), (1024, 62_936_065)],
)
def test_the_released_sizes(width, parameters):
    projection, hidden = 2560, 5120
    network = CombinerNetwork(width, projection, hidden)
    assert sum(p.numel() for p in network.parameters()) == (parameters or 57_692_673)


def test_the_released_names_shapes_and_default_widths():
    shapes = {n: tuple(t.shape) for n, t in CombinerNetwork(640).state_dict().items()}
    weights = {n.removesuffix(".weight"): s for n, s in shapes.items() if n.endswith("weight")}
    assert weights == {
        "text_projection_layer": (2560, 640),
        "image_projection_layer": (2560, 640),
        "combiner_layer": (5120, 5120),
        "output_layer": (640, 5120),
        "dynamic_scalar.0": (5120, 5120),
        "dynamic_scalar.3": (1, 5120),
    }
    assert len(shapes) == 12


def by_hand(weights, images, texts):
    """The formula of the paper's released code, in numpy, without dropout."""

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    text = np.maximum(linear("text_projection_layer", texts), 0)
    image = np.maximum(linear("image_projection_layer", images), 0)
    raw = np.concatenate([text, image], axis=1)
    mixed = linear("output_layer", np.maximum(linear("combiner_layer", raw), 0))
    scalar = linear("dynamic_scalar.3", np.maximum(linear("dynamic_scalar.0", raw), 0))
    share = 1 / (1 + np.exp(-scalar))
    out = mixed + share * texts + (1 - share) * images
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_the_forward_pass_is_the_formula():
    network = CombinerNetwork(6, 5, 7).eval()
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    rng = np.random.default_rng(0)
    images, texts = 3 * rng.normal(size=(2, 4, 6))
    with torch.no_grad():
        found = network(torch.tensor(images).float(), torch.tensor(texts).float())
    assert np.allclose(found.numpy(), by_hand(weights, images, texts), atol=1e-6)
    assert not np.allclose(found.numpy(), by_hand(weights, texts, images), atol=1e-2)


def test_the_residual_is_of_the_raw_features():
    network = CombinerNetwork(6, 5, 7).eval()
    images, texts = torch.randn(2, 4, 6)
    with torch.no_grad():
        assert not torch.allclose(network(images, texts), network(5 * images, texts), atol=1e-3)


def test_the_loss_is_one_sided_with_scale_100():
    rng = np.random.default_rng(0)
    q, t = rng.normal(size=(2, 4, 6))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    logits = 100 * q @ (t / np.linalg.norm(t, axis=1, keepdims=True)).T
    logits -= logits.max(axis=1, keepdims=True)
    expected = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(axis=1)))
    assert contrastive_loss(torch.tensor(q), torch.tensor(t)).item() == pytest.approx(expected)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_released_layout_loads(tmp_path, fake, prefix):
    source = CombinerNetwork(fake.embedding_width, 9, 11).eval()
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save({"epoch": 76, "Combiner": weights}, tmp_path / "combiner.pt")
    method = Combiner.build(backbone=fake, checkpoint=read_checkpoint(tmp_path / "combiner.pt"))
    images, texts = torch.randn(2, 3, fake.embedding_width)
    with torch.no_grad():
        assert torch.equal(method.network(images, texts), source(images, texts))
    assert (method.trained_on, method.zero_shot) == ("unstated triplets", False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Phi": {"0.weight": torch.ones(2, 2)}}, "its keys are Phi"),
        ({"text_projection_layer.weight": torch.ones(2, 2)}, "weights of a Combiner"),
        ({"Combiner": CombinerNetwork(640, 2, 2).state_dict()}, "width 640; fake has 32"),
    ],
)
def test_what_is_not_for_it_is_refused(tmp_path, fake, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CorruptData, match=words):
        Combiner.build(backbone=fake, checkpoint=read_checkpoint(tmp_path / "a.pt"))


@pytest.mark.parametrize("templates", [PROTOCOL.templates, {"text": "the {what}"}])
def test_it_reads_the_caption_where_a_protocol_has_one(fake, templates):
    protocol = replace(PROTOCOL, templates=templates)
    method = Combiner(CombinerNetwork(fake.embedding_width, 4, 4), "x")
    query = Query(
        id="q", reference=ImageRef(id="r", read=bytes), positives=(), fields={"what": "dog"}
    )
    v = torch.randn(1, fake.embedding_width)
    texts = TextFeatures(backbone=fake, truncate=False)
    batch = QueryBatch(protocol=protocol, queries=[query], reference_features=v, encoder=texts)
    text = "dog" if "caption" in templates else "the dog"
    with torch.no_grad():
        wanted = method.network(v, fake.encode_texts([text]))
        assert torch.allclose(method.compose(batch), wanted, atol=1e-6)


def test_fashion_iq_trains_on_four_wordings():
    assert fashion_iq.make_wordings(["is Longer. ", "?more red"]) == (
        "Is longer and more red",
        "More red and is Longer",
        "Is longer",
        "More red",
    )


def test_fashion_iq_evaluates_it_on_the_first_wording_without_a_star():
    fields = fashion_iq.make_caption_fields(["is Longer. ", "?more red"])
    for protocol in (fashion_iq.PIC2WORD, fashion_iq.VAL):
        assert protocol.text("caption", "dress", fields) == "Is longer and more red"
    assert fashion_iq.CLIP4CIR.text("text", "dress", fields) == "Is longer and more red"


def test_the_triplets_of_the_real_layouts(tmp_path, picture):
    base = tmp_path / "fashion-iq"
    for name in ("captions", "image_splits", "images"):
        (base / name).mkdir(parents=True)
    for category in fashion_iq.CATEGORIES:
        rows = [{"candidate": f"{category}0", "target": f"{category}1", "captions": ["a", "b"]}]
        (base / "captions" / f"cap.{category}.train.json").write_text(
            json.dumps(rows), encoding="utf-8"
        )
        for i in range(2):
            (base / "images" / f"{category}{i}.jpg").write_bytes(picture(i))
    found = fashion_iq.FashionIQ().triplets(data_root=tmp_path)
    assert [(t.reference.id, t.target.id) for t in found] == [
        (f"{c}0", f"{c}1") for c in fashion_iq.CATEGORIES
    ]
    assert found[0].captions == ("A and b", "B and a", "A", "B")
    assert [t.group for t in found] == list(fashion_iq.CATEGORIES)
    assert [(f["first"], f["second"]) for f in found[0].fields] == [("a", "b"), ("b", "a")]

    base = tmp_path / "cirr"
    (base / "img_raw/train/34").mkdir(parents=True)
    for name in ("captions", "image_splits"):
        (base / name).mkdir()
    names = [f"train-{i}-0-img0" for i in range(6)]
    row = {
        "pairid": 1,
        "reference": names[0],
        "target_hard": names[2],
        "caption": "two of them",
        "img_set": {"id": 1, "members": names},
        "target_soft": {names[2]: 1.0, names[4]: 1.0, names[5]: 0.5},
    }
    (base / "captions/cap.rc2.train.json").write_text(json.dumps([row]), encoding="utf-8")
    paths = {name: f"./train/34/{name}.png" for name in names}
    (base / "image_splits/split.rc2.train.json").write_text(json.dumps(paths), encoding="utf-8")
    for i, name in enumerate(names):
        (base / "img_raw/train/34" / f"{name}.png").write_bytes(picture(i))
    [triplet] = cirr.CIRR().triplets(data_root=tmp_path)
    assert (triplet.reference.id, triplet.target.id) == (names[0], names[2])
    assert triplet.captions == ("two of them",)
    assert triplet.fields == ({"caption": "two of them"},)
    assert [ref.id for ref in triplet.equals] == [names[4]]
    assert triplet.reference.read() == picture(0)


def test_emoji_triplets_hold_nothing_that_is_held_out():
    held_out = {p.ref.id for p in read_pictures() if p.held_out}
    triplets = Emoji().triplets(data_root=None)
    used = {ref.id for t in triplets for ref in (t.reference, t.target)}
    assert len(triplets) > 2500
    assert not used & held_out
    assert {t.reference.id.split("/")[0] for t in triplets} == {"3d"}
    codes = {(t.reference.id.split("/")[1], t.target.id.split("/")[1]) for t in triplets}
    assert all(source == target for source, target in codes)


def job(fake, picture_refs, output, **recipe):
    """Pictures 2 i + 1 are the targets of pictures 2 i."""
    defaults = {"epochs": 5, "batch_size": 8, "learning_rate": 1e-2, "projection": 8, "hidden": 8}
    return training.CombinerJob(
        recipe=training.CombinerRecipe(**{**defaults, **recipe}),
        backbone=fake,
        output=output,
        **make_supervision(picture_refs(64), 48),
    )


def log_of(made):
    with made.output.with_suffix(".log.csv").open(encoding="utf-8") as file:
        return [(float(r["loss"]), float(r["selection_score"])) for r in csv.DictReader(file)]


def test_training_lowers_the_loss_raises_recall_and_keeps_the_best(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs, tmp_path / "c.safetensors", epochs=30)
    untrained = training.score_network(
        training.make_learner(made).network.eval(), made, training.embed_triplets(made, QUIET)
    )
    best = training.train(made, QUIET)
    log = log_of(made)
    assert log[-1][0] < 0.5 * log[0][0]
    assert best == max(score for _, score in log) > untrained
    saved = read_checkpoint(made.output)
    assert saved.provenance["selection_score"] == best
    assert saved.provenance["best_epoch"] == 1 + [s for _, s in log].index(best)
    assert saved.provenance["selection"]["split"] == "val"
    network = CombinerNetwork.from_weights(saved.content).eval()
    again = training.score_network(network, made, training.embed_triplets(made, QUIET))
    assert again == pytest.approx(best)
    assert not epochs.state_path_of(made.output).exists()


def test_the_selection_score_is_the_mean_over_groups_then_metrics(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs, tmp_path / "c.safetensors")
    queries = [
        replace(query, group="few" if i < 4 else "many")
        for i, query in enumerate(made.validation.queries)
    ]
    made = replace(made, validation=replace(made.validation, queries=tuple(queries)))
    features = training.embed_triplets(made, QUIET)
    network = training.make_learner(made).network.eval()
    vectors = network(
        features.found.of([q.reference for q in queries]),
        fake.encode_texts(["next"] * len(queries)),
    )
    gallery = torch.nn.functional.normalize(features.found.of(made.validation.gallery), dim=1)
    order = (vectors @ gallery.T).argsort(dim=1, descending=True)
    ranks = [(order[i] == q.positives[0]).nonzero().item() for i, q in enumerate(queries)]
    means = [
        np.mean([100 * np.mean([r < k for r in part]) for k in (1, 5)])
        for part in (ranks[:4], ranks[4:])
    ]
    assert training.score_network(network, made, features) == pytest.approx(np.mean(means))


def test_every_wording_is_drawn_and_every_epoch_differs(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs, tmp_path / "c.safetensors")
    features = training.embed_triplets(made, QUIET)
    assert len(features.texts) == 2
    epochs = [list(training.make_batches(made, features, epoch)) for epoch in (0, 1, 0)]
    assert [len(batches) for batches in epochs] == [3, 3, 3]
    seen = torch.cat([texts for _, texts, _ in epochs[0]]).unique(dim=0)
    assert len(seen) == 2
    flat = [torch.cat([targets for _, _, targets in batches]) for batches in epochs]
    assert torch.equal(flat[0], flat[2])
    assert not torch.equal(flat[0], flat[1])
    assert len(flat[1].unique(dim=0)) == 24


def test_a_batch_larger_than_the_set_is_the_set(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs, tmp_path / "c.safetensors", batch_size=4096)
    [(references, _, _)] = training.make_batches(made, training.embed_triplets(made, QUIET), 0)
    assert len(references) == 24


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_interrupt_and_resume_give_the_same_bits(
    fake, picture_refs, tmp_path, monkeypatch, epochs_done
):
    unbroken = job(fake, picture_refs, tmp_path / "a.safetensors")
    training.train(unbroken, QUIET)
    broken = job(fake, picture_refs, tmp_path / "b.safetensors")
    original = training._train_epoch

    def stop(*arguments):
        if arguments[-1] == epochs_done:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "_train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(broken, QUIET)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="pass --resume to continue it"):
        training.train(broken, QUIET)
    training.train(broken, QUIET, resume=True)
    first, second = (read_checkpoint(j.output).content for j in (unbroken, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_of(unbroken) == log_of(broken)


def test_a_resume_with_another_recipe_names_the_difference(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs, tmp_path / "c.safetensors")
    learner = training.make_learner(made)
    epochs.save_state(epochs.state_path_of(made.output), learner, {**made.identity(), "epochs": 0})
    other = replace(made, recipe=replace(made.recipe, learning_rate=0.5))
    with pytest.raises(UsageError, match=r"recipe.learning_rate: 0.01 then, 0.5 now"):
        training.train(other, QUIET, resume=True)


def test_a_loss_that_is_not_finite_stops(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs, tmp_path / "c.safetensors", learning_rate=1e30)
    with pytest.raises(CheckFailed, match="--resume"):
        training.train(made, QUIET)
    assert not made.output.exists()


SCRIPT = """
import sys
from cirbench.benchmark.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
main()
"""


def test_kill_9_and_resume_give_the_same_bits(tmp_path):
    def command(name, *more):
        arguments = [
            "train",
            "combiner",
            "-t",
            "emoji",
            "-b",
            "fake",
            "--epochs",
            "6",
            "--projection",
            "8",
            "--hidden",
            "8",
            "--batch-size",
            "512",
            "-q",
            "-o",
            str(tmp_path / f"{name}.safetensors"),
            *more,
        ]
        return [sys.executable, "-P", "-c", SCRIPT, *arguments]

    subprocess.run(command("a"), check=True, capture_output=True)
    log = tmp_path / "b.log.csv"
    with subprocess.Popen(command("b")) as process:
        while not (log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 2):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    subprocess.run(command("b", "--resume"), check=True, capture_output=True)
    first, second = (read_checkpoint(tmp_path / f"{n}.safetensors").content for n in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("given", "chosen", "found"),
    [
        (["a.pt"], ["pic2word", "image-only"], {"pic2word": "a.pt"}),
        (["combiner=c.pt", "pic2word=p.pt"], ["all"], {"combiner": "c.pt", "pic2word": "p.pt"}),
        (["dir/x=1/a.pt"], ["pic2word"], {"pic2word": "dir/x=1/a.pt"}),
    ],
)
def test_checkpoints_are_given_by_method(given, chosen, found):
    assert {k: str(v) for k, v in parse_checkpoints(given, chosen).items()} == found


@pytest.mark.parametrize(
    ("given", "chosen", "words"),
    [
        (
            ["a.pt"],
            ["pic2word", "combiner"],
            r"must name its method, pic2word or combiner; .*METHOD=a\.pt",
        ),
        (["a.pt"], ["image-only"], "none of the chosen methods does"),
        (["pic2word=a.pt", "pic2word=b.pt"], ["pic2word"], "two checkpoints"),
    ],
)
def test_a_checkpoint_of_no_clear_method_is_refused(given, chosen, words):
    with pytest.raises(UsageError, match=words):
        parse_checkpoints(given, chosen)
