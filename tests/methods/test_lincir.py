"""LinCIR's training: what of a caption is masked, the loss, and what a resume must give."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from triplets import make_supervision

from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.selection import score_selection
from cirbench.benchmark.training.texts import find_training_texts
from cirbench.datasets.emoji.captions import EmojiLessons
from cirbench.methods.lincir import self_masking as training
from cirbench.methods.lincir.captions import clean, find_tagger, mask
from cirbench.methods.lincir.method import LinCIR
from cirbench.methods.lincir.recipe import LincirRecipe
from cirbench.methods.lincir.training import LincirTraining
from cirbench.methods.searle.method import Phi

QUIET = Reporter(quiet=True)
TEXTS = [f"A {colour} {thing} on the <PERSON>" for colour in ("red", "big") for thing in "pqrstu"]


def job(fake, output, texts=TEXTS, selected_on=None, **recipe):
    """Five steps in three parts; selected on pictures, if there are some."""
    small = {"steps": 5, "batch_size": 4, "hidden": 8, "validate_every": 2, "learning_rate": 0.01}
    found = select_on(selected_on) if selected_on else {}
    return training.LincirJob(
        recipe=LincirRecipe(**{**small, **recipe}),
        backbone=fake,
        texts=texts,
        trained_on="captions",
        output=output,
        tag=find_tagger("function-words"),
        selection=found.get("selection"),
        validation=found.get("validation"),
    )


def select_on(refs):
    """The selection of the made triplets, whose protocol has a prompt."""
    found = make_supervision(refs, 0)
    templates = {"pseudo-word": "a photo of * , {what}"}
    protocol = replace(found["selection"].protocol, templates=templates)
    return {**found, "selection": replace(found["selection"], protocol=protocol)}


def log_of(made):
    with made.output.with_suffix(".log.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# What is masked


def tag_as(marks):
    """A tagger by hand: a word is marked where its mark is "x"."""
    return lambda caption: zip(caption.split(), [m == "x" for m in marks], strict=True)


@pytest.mark.parametrize(
    ("caption", "marks", "masked"),
    [
        ("a red dog on the old sofa", "xxx.xxx", "* on *"),
        ("dog and dog", "x.x", "* and *"),
        ("cat near scattered cats", "x...", "* near s * tered * s"),
        ("running", ".", "*"),
        ("", "", "a photo of *"),
    ],
)
def test_each_run_of_keywords_is_replaced_wherever_it_is_spelled(caption, marks, masked):
    assert mask(caption, tag_as(marks), np.random.default_rng(0)) == masked


def test_without_a_run_one_random_word_is_replaced():
    drawn = [
        mask("an a in", tag_as("..."), np.random.default_rng(seed)).split() for seed in range(40)
    ]
    assert {tuple(words) for words in drawn} == {
        ("*", "a", "in"),
        ("an", "*", "in"),
        ("an", "a", "*"),
    }


def test_a_run_that_the_caption_spells_differently_leaves_a_random_word():
    def apart(_caption):  # a tokenizer that takes the hyphen off
        return [("well", True), ("-", True), ("known", True)]

    assert mask("well-known", apart, np.random.default_rng(0)) == "*"
    assert mask("so well-known", apart, np.random.default_rng(0)).count("*") == 1


def test_captions_are_lower_case_and_have_no_placeholder_of_their_own():
    assert clean(" A <PERSON> pays\t5$ for  *this* ") == "a person pays 5 for this"
    assert clean("$ *") == ""


@pytest.mark.parametrize(
    ("caption", "masked"),
    [
        ("a photo of a red-haired woman", "* of *"),
        ("two dogs, 3 cats; it was there", "* , 3 * ; it was there"),
        ("it's on", "* on"),
        ("among them", None),
    ],
)
def test_without_a_model_all_but_function_words_and_numbers_are_masked(caption, masked):
    found = mask(caption, find_tagger("function-words"), np.random.default_rng(0))
    assert found == masked or (masked is None and found in ("* them", "among *"))


def test_spacy_marks_nouns_names_adjectives_and_determiners(monkeypatch):
    kinds = ["DET", "ADJ", "NOUN", "VERB", "ADP", "PROPN", "ADV", "PRON", "NUM"]

    def load(name):
        assert name == "en_core_web_sm"
        return lambda caption: [
            SimpleNamespace(text=word, pos_=kind)
            for word, kind in zip(caption.split(), kinds, strict=True)
        ]

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    found = mask("the old dog ran to paris fast it 3", find_tagger("spacy"), None)
    assert found == "* ran to * fast it 3"


def test_where_spacy_is_not_there_the_message_says_what_needs_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UsageError, match="--keywords function-words"):
        find_tagger("spacy")
    with pytest.raises(UsageError, match="keywords must be spacy or function-words, got 'x'"):
        find_tagger("x")


# The loss


def test_the_loss_is_the_papers_caption_by_caption(fake, tmp_path):
    made = job(fake, tmp_path / "l.safetensors", ["a red dog on a sofa", "it is", "a cat near me"])
    made = replace(made, recipe=replace(made.recipe, batch_size=3))
    phi = Phi(fake.embedding_width, 8, fake.token_width).eval()
    torch.manual_seed(3)
    found = training.compute_loss(phi, made, step=1)
    torch.manual_seed(3)
    shares, noise = torch.rand(3, 1), torch.randn(3, fake.embedding_width)
    rows = training.choose_rows(1, 3, 3, made.recipe.seed)
    rng = np.random.default_rng((made.recipe.seed, 1))
    squares = []
    for place, row in enumerate(rows):
        masked = mask(made.texts[row], made.tag, rng)
        original = fake.encode_texts([made.texts[row]])[0]
        word = phi(original + shares[place] * noise[place])
        count = masked.split().count("*")
        again = fake.encode_prompts([masked], word.expand(1, count, -1))[0]
        squares += [(again - original).square()]
    assert found.item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)
    assert found.item() > 1e-3
    found.backward()
    assert all(p.grad.abs().sum() > 0 for p in phi.parameters())


def test_a_caption_beyond_the_context_is_cut_and_may_lose_its_placeholder(fake, tmp_path):
    long = "of " * 200 + "dog"
    made = job(fake, tmp_path / "l.safetensors", [long], batch_size=1)
    phi = Phi(fake.embedding_width, 8, fake.token_width)
    assert training.compute_loss(phi, made, step=0).item() == pytest.approx(0, abs=1e-9)


# The training


def test_it_learns_and_its_weights_are_a_method(fake, tmp_path):
    made = job(fake, tmp_path / "l.safetensors", steps=60, validate_every=20)
    training.train(made, QUIET)
    losses = [float(row["loss"]) for row in log_of(made)]
    assert len(losses) == 3
    assert losses[2] < losses[0]
    checkpoint = read_checkpoint(made.output)
    assert checkpoint.provenance["final_loss"] == pytest.approx(losses[2])
    assert checkpoint.provenance["recipe"]["keywords"] == "spacy"
    assert LinCIR.build(backbone=fake, checkpoint=checkpoint).trained_on == "captions"
    assert not list(tmp_path.glob("*.state.*"))


def test_the_best_state_is_kept(fake, picture_refs, tmp_path, monkeypatch):
    made = job(fake, tmp_path / "l.safetensors", selected_on=picture_refs(4))
    seen, scores = [], iter([10.0, 30.0, 20.0])

    def score(method, *_given, **_more):
        seen.append({name: tensor.clone() for name, tensor in method.phi.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(training, "score_selection", score)
    assert training.train(made, QUIET) == 30
    checkpoint = read_checkpoint(made.output)
    assert (checkpoint.provenance["best_epoch"], len(seen)) == (2, 3)
    assert all(torch.equal(checkpoint.content[name], seen[1][name]) for name in seen[1])
    assert not torch.equal(seen[1]["0.weight"], seen[2]["0.weight"])


def test_the_selection_score_is_that_of_the_method(fake, picture_refs, tmp_path):
    made = job(fake, tmp_path / "l.safetensors", selected_on=picture_refs(12))
    best = training.train(made, QUIET)
    checkpoint = read_checkpoint(made.output)
    method = LinCIR.build(backbone=fake, checkpoint=checkpoint)
    images = training.embed_selection(fake, made.selection, made.validation, 1, QUIET)
    texts = TextFeatures(backbone=fake, truncate=False)
    again = score_selection(method, made.selection, made.validation, images, texts)
    assert best == pytest.approx(again)
    assert best > 0


def test_selection_prepares_references_as_its_protocol_does(fake, picture_refs):
    found = select_on(picture_refs(4))
    protocol = replace(found["selection"].protocol, reference_preprocess="targetpad")
    selection, data = replace(found["selection"], protocol=protocol), found["validation"]
    images = training.embed_selection(fake, selection, data, 1, QUIET)
    plain = training.embed_selection(fake, found["selection"], data, 1, QUIET)
    assert images.references is not None
    assert plain.references is None
    assert torch.equal(images.of(data.gallery), plain.of(data.gallery))


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("done", [1, 2])
def test_interrupt_and_resume_give_the_same_bits(
    fake, picture_refs, tmp_path, monkeypatch, done, selected
):
    refs = picture_refs(12) if selected else None
    unbroken = job(fake, tmp_path / "a.safetensors", selected_on=refs)
    training.train(unbroken, QUIET)
    broken = job(fake, tmp_path / "b.safetensors", selected_on=refs)
    original = training._train_part

    def stop(learner, made, part):
        if part == done:
            raise KeyboardInterrupt
        return original(learner, made, part)

    monkeypatch.setattr(training, "_train_part", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(broken, QUIET)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="pass --resume to continue it"):
        training.train(broken, QUIET)
    torch.manual_seed(99)  # what was drawn elsewhere must not matter
    training.train(broken, QUIET, resume=True)
    first, second = (read_checkpoint(made.output).content for made in (unbroken, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_of(unbroken) == log_of(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.5}, "recipe.learning_rate: 0.01 then, 0.5 now"),
        ({"texts": TEXTS[::-1]}, "texts.sha256"),
    ],
)
def test_a_resume_of_another_training_names_the_difference(
    fake, tmp_path, monkeypatch, change, words
):
    made = job(fake, tmp_path / "l.safetensors")
    original = training._train_part
    monkeypatch.setattr(
        training, "_train_part", lambda *given: original(*given) if given[2] == 0 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        training.train(made, QUIET)
    with pytest.raises(UsageError, match=words):
        training.train(job(fake, made.output, **change), QUIET, resume=True)


def test_a_loss_that_is_not_finite_stops(fake, tmp_path):
    made = job(fake, tmp_path / "l.safetensors", learning_rate=1e30)
    with pytest.raises(CheckFailed, match="--resume"):
        training.train(made, QUIET)
    assert not made.output.exists()


def test_a_batch_larger_than_the_captions_is_refused(fake, tmp_path):
    with pytest.raises(UsageError, match="got 13 of 12; lower --batch-size"):
        training.train(job(fake, tmp_path / "l.safetensors", batch_size=13), QUIET)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
    ],
)
def test_numbers_that_no_training_can_have_are_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        LincirRecipe(**wrong)


def test_the_defaults_are_the_papers_and_for_emoji_small_ones():
    paper, emoji = (LincirTraining().default_recipe(name) for name in ("cc3m.tsv", "emoji"))
    assert (paper.steps, paper.batch_size, paper.learning_rate) == (20_000, 512, 1e-4)
    assert (paper.weight_decay, paper.keywords, paper.select_on) == (0.01, "spacy", "cirr")
    assert (emoji.steps, emoji.learning_rate, emoji.validate_every) == (300, 1e-4, 25)


# Captions


def test_captions_come_from_a_file_a_table_or_a_task(tmp_path):
    (tmp_path / "a.txt").write_text("a dog\n\n  \na cat\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("url\tcaption\nx\ta dog\ny\ta cat\n", encoding="utf-8")
    said = []
    assert find_training_texts(str(tmp_path / "a.txt"), say=said.append)[0] == ["a dog", "a cat"]
    assert "2 of 4 captions are empty" in said[0]
    assert find_training_texts(str(tmp_path / "b.tsv")) == (["a dog", "a cat"], "b")
    texts, label = find_training_texts("emoji")
    assert label == "emoji captions"
    assert len(set(texts)) == len(texts) > 1000
    [first, *_] = EmojiLessons().draw_batches(np.random.default_rng(0)).__next__()
    assert texts[0] == first.text


def test_captions_that_are_not_there_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("text\na dog\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(MissingData, match="must be a file of captions or a task, got nowhere"):
        find_training_texts("nowhere")
    with pytest.raises(MissingData, match="holds no captions"):
        find_training_texts(str(tmp_path / "empty.txt"))
    with pytest.raises(CorruptData, match="caption"):
        find_training_texts(str(tmp_path / "a.csv"))
    with pytest.raises(UsageError, match="cirr has no captions"):
        find_training_texts("cirr")


# The command


def test_the_command_trains_what_bench_run_evaluates(bench, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    weights = tmp_path / "l.safetensors"
    small = ("--steps", 2, "--batch-size", 4, "--hidden", 8, "--keywords", "function-words")
    command = ("train", "lincir", "--texts", tmp_path / "captions.txt", "-b", "fake", "-o", weights)
    code, out, err = bench(*command, *small, "--select-on", "none")
    assert (code, out) == (0, f"{weights}\n"), err
    assert "2 steps on 12 captions" in err
    run = ("run", "-m", "lincir", "-t", "emoji", "--split", "val", "--limit", 8, "-b", "fake")
    code, _, err = bench(*run, "--checkpoint", weights, "-o", tmp_path / "r")
    assert code == 0, err


def test_the_paper_s_selection_wants_cirr(bench, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    weights = tmp_path / "l.safetensors"
    command = ("train", "lincir", "--texts", tmp_path / "captions.txt", "-b", "fake", "-o", weights)
    code, _, err = bench(*command, "--keywords", "function-words", "--data-root", tmp_path)
    assert code == 3, err
    assert "cirr" in err.lower()
    assert not weights.exists()
