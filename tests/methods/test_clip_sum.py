"""Fine-tuning CLIP on triplets, and backbones whose weights were fine-tuned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Query, Selection, TaskData, Triplet
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.tuned import CLIP_FILE
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.evaluation.weights import find_weights
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.state import read_epochs
from cirbench.methods.combiner import clip_training as training

QUIET = Reporter(quiet=True)
PROTOCOL = EvaluationProtocol(
    name="p",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "next"},
    metrics=("R@1",),
    headline="R@1",
)


def job(picture_refs, output, **recipe):
    refs = picture_refs(24)
    pairs = range(0, 24, 2)
    defaults = {"epochs": 4, "batch_size": 6, "learning_rate": 1e-3}
    return training.ClipSumJob(
        recipe=training.ClipSumRecipe(**{**defaults, **recipe}),
        backbone=load_backbone("fake"),
        triplets=[
            Triplet(reference=refs[i], target=refs[i + 1], captions=("next",)) for i in pairs
        ],
        selection=Selection(split="val", protocol=PROTOCOL, metrics=("R@1",)),
        validation=TaskData(
            gallery=tuple(refs),
            queries=tuple(Query(id=str(i), reference=refs[i], positives=(i + 1,)) for i in pairs),
            annotations={},
        ),
        trained_on="pairs",
        output=output,
    )


@pytest.mark.parametrize(
    ("encoders", "moved"),
    [
        (
            "both",
            {"pixels.weight", "pixels.bias", "token_embedding.weight", "text.weight", "text.bias"},
        ),
        ("image", {"pixels.weight", "pixels.bias"}),
        ("text", {"token_embedding.weight", "text.weight", "text.bias"}),
    ],
)
def test_only_the_chosen_encoders_are_trained(picture_refs, tmp_path, encoders, moved):
    made = job(picture_refs, tmp_path, encoders=encoders, epochs=1)
    before = {n: t.clone() for n, t in made.backbone.model.state_dict().items()}
    training.train(made, QUIET)
    after = made.backbone.model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == moved
    assert not made.backbone.model.training


@pytest.mark.parametrize("precision", ["amp", "amp_bf16"])
def test_autocast_trains_weights_that_stay_float32(picture_refs, tmp_path, precision):
    plain = job(picture_refs, tmp_path / "plain", learning_rate=1e-5)
    made = replace(
        plain, output=tmp_path / "amp", backbone=load_backbone("fake", precision=precision)
    )
    for one in (plain, made):
        training.train(one, QUIET)
    assert {p.dtype for p in made.backbone.parameters()} == {torch.float32}
    losses = [[loss for loss, _ in read_epochs(one.log_path, 4)] for one in (plain, made)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_weights_in_half_precision_are_not_trained(bench, tmp_path):
    code, _, err = bench(
        "train",
        "clip-sum",
        "-t",
        "emoji",
        "-b",
        "emoji-clip",
        "-o",
        tmp_path,
        "--precision",
        "bf16",
    )
    assert code == 2
    assert "fp32, amp or amp_bf16" in err


def test_the_temperature_is_never_trained():
    model = load_backbone("emoji-clip").model
    chosen = {id(p) for p in training.unfreeze_encoders(model, "both")}
    names = {name for name, p in model.named_parameters() if id(p) not in chosen}
    assert names == {"logit_scale"}


def test_unknown_encoders_are_refused():
    with pytest.raises(UsageError, match="both, text, image"):
        training.unfreeze_encoders(load_backbone("fake").model, "all")


def test_the_loss_is_of_the_normalised_raw_sum(picture_refs, tmp_path):
    made = job(picture_refs, tmp_path, epochs=1, batch_size=12, learning_rate=0.0)
    [(references, texts, targets)] = training.make_batches(made, 0)
    backbone = made.backbone
    with torch.no_grad():
        q = normalize(backbone.encode_images(references) + backbone.encode_texts(texts), dim=-1)
        logits = 100 * q @ normalize(backbone.encode_images(targets), dim=-1).T
        wanted = torch.nn.functional.cross_entropy(logits, torch.arange(12)).item()
    training.train(made, QUIET)
    [(loss, _)] = training.read_epochs(made.log_path, 1)
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_training_lowers_the_loss_and_the_folder_is_a_backbone(picture_refs, tmp_path):
    made = job(picture_refs, tmp_path / "tuned", epochs=12)
    best = training.train(made, QUIET)
    log = training.read_epochs(made.log_path, 12)
    assert log[-1][0] < log[0][0]
    assert best == max(score for _, score in log)
    header = read_checkpoint(made.output / CLIP_FILE).provenance
    assert (header["base"], header["trained_on"]) == ("fake", "pairs")
    backbone = load_backbone(f"tuned:{made.output}")
    assert backbone.name.startswith("fake+")
    assert backbone.weights_sha256 != load_backbone("fake").weights_sha256
    again = replace(made, backbone=backbone)
    assert training.score_towers(again) == pytest.approx(best)


def test_a_resumed_training_has_the_same_bits(picture_refs, tmp_path, monkeypatch):
    unbroken, broken = (job(picture_refs, tmp_path / name) for name in "ab")
    training.train(unbroken, QUIET)
    original = training._train_epoch

    def stop(*arguments):
        if arguments[2] == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "_train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(broken, QUIET)
    monkeypatch.undo()
    fresh = replace(broken, backbone=load_backbone("fake"))
    training.train(fresh, QUIET, resume=True)
    first, second = (read_checkpoint(tmp_path / n / CLIP_FILE).content for n in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_record_of_a_tuned_backbone_is_a_cell_of_its_own(picture_refs, tmp_path):
    training.train(job(picture_refs, tmp_path / "tuned", epochs=1), QUIET)
    records = [
        next(
            iter(
                run(
                    plan(
                        Request(
                            methods=("image-only",),
                            task="emoji",
                            split="val",
                            backbone=name,
                            output=tmp_path / "r",
                        )
                    ),
                    QUIET,
                )
            )
        )
        for name in ("fake", f"tuned:{tmp_path / 'tuned'}")
    ]
    names = [record.cell.backbone for record in records]
    assert names[0] == "fake"
    assert names[1].startswith("fake+")
    assert str(tmp_path) not in names[1]


def test_a_combiner_in_the_folder_is_found(tmp_path):
    (tmp_path / "combiner.safetensors").write_bytes(b"x")
    found = find_weights("combiner", f"tuned:{tmp_path}", {})
    assert found == tmp_path / "combiner.safetensors"
    other = tmp_path / "other.pt"
    other.write_bytes(b"x")
    assert find_weights("combiner", f"tuned:{tmp_path}", {"combiner": other}) == other


def test_the_released_file_is_rounded_but_for_norms_and_embeddings(tmp_path):
    base = load_backbone("emoji-clip")
    weights = {name: tensor + 1e-5 for name, tensor in base.model.state_dict().items()}
    torch.save(
        {"epoch": 3, "CLIP": {**weights, "input_resolution": torch.tensor(48)}},
        tmp_path / "tuned_clip_best.pt",
    )
    tuned = load_backbone(f"tuned:emoji-clip@{tmp_path / 'tuned_clip_best.pt'}").model.state_dict()
    for name in ("positional_embedding", "ln_final.weight", "token_embedding.weight"):
        assert torch.equal(tuned[name], weights[name])
    for name in ("text_projection", "visual.conv1.weight"):
        assert torch.equal(tuned[name], weights[name].half().float())
        assert not torch.equal(tuned[name], weights[name])


def test_weights_that_do_not_fit_name_the_first(tmp_path):
    torch.save({"CLIP": {"text_projection": torch.ones(2, 2)}}, tmp_path / "a.pt")
    with pytest.raises(CorruptData, match=r"does not fit emoji-clip: \d+ of \d+ weights"):
        load_backbone(f"tuned:emoji-clip@{tmp_path / 'a.pt'}")


def test_a_file_without_its_base_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / CLIP_FILE)
    with pytest.raises(UsageError, match="tuned from"):
        load_backbone(f"tuned:{tmp_path}")
