"""SEARLE's training: what is said of concepts, both losses and their steps, and a resume's bits."""

from __future__ import annotations

import csv
import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.searle import distillation, inversion
from cirbench.methods.searle.distillation import SearleJob, distil, train
from cirbench.methods.searle.inversion import Language, find_near_concepts, invert_part
from cirbench.methods.searle.learning import make_learner
from cirbench.methods.searle.method import Searle
from cirbench.methods.searle.phrases import TEMPLATES, find_phrases, hide, read_templates
from cirbench.methods.searle.recipe import SearleRecipe
from cirbench.methods.searle.training import SearleTraining

QUIET = Reporter(quiet=True)
CONCEPTS = ("dog", "red car", "tree", "house", "sea")
PHRASES = {
    "dog": ("a dog and a dog at home",),
    "red car": ("the red car that is old",),
    "tree": ("one tree",),
}
SMALL = {
    "inversion_steps": 3,
    "inversion_batch": 4,
    "inversion_concepts": 2,
    "near_concepts": 3,
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 0.01,
    "hidden": 8,
}


def said_of(by_concept=PHRASES):
    """Phrases of concepts as a file would give them."""
    found = find_phrases(phrases="", concepts="", templates=["$"], titles=by_concept)
    return replace(found, by_concept=by_concept, origin="by hand")


def job(fake, refs, output, templates=TEMPLATES, phrases=None, **recipe):
    """Three parts of inversion on ten pictures, then three epochs of two steps."""
    return SearleJob(
        recipe=SearleRecipe(**{**SMALL, **recipe}),
        backbone=fake,
        images=refs,
        trained_on="made pictures",
        output=output,
        phrases=phrases
        or find_phrases(phrases="", concepts="", templates=templates, titles=CONCEPTS),
        templates=templates,
    )


def language(fake, near, phrases=PHRASES, templates=("a photo of $",), **recipe):
    return Language(
        recipe=SearleRecipe(**recipe),
        backbone=fake,
        phrases=said_of(phrases),
        templates=templates,
        near=torch.tensor(near),
    )


def log_of(made):
    with made.output.with_suffix(".log.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def first_adamw_step(parameter, gradient, rate, decay=0.01):
    """AdamW's first step by hand: its two corrected averages are the gradient and its square."""
    return parameter * (1 - rate * decay) - rate * gradient / (gradient.abs() + 1e-8)


# One step of inversion


def say(fake, prompt, word):
    return fake.encode_prompts([prompt], word[None], placeholder="$")[0]


def one_word_loss(fake, word, image, phrase, hidden, weight):
    """The loss of one picture's word, in floats of Python but for the towers."""
    to_image = 1 - cosine_similarity(say(fake, "a photo of $", word), image, dim=0)
    to_phrase = 1 - cosine_similarity(
        say(fake, hidden, word), fake.encode_texts([phrase])[0], dim=0
    )
    return (to_image + weight * to_phrase) / (1 + weight)


HIDDEN_ONCE = ("a $ and a dog at home", "the $ that is old", "one $")
HIDDEN = ("a $ and a $ at home", "the $ that is old", "one $")


def test_a_step_of_inversion_is_the_papers(fake, monkeypatch):
    images = torch.randn(3, fake.embedding_width, generator=torch.Generator().manual_seed(1))
    losses, take_step = [], inversion.take_step
    monkeypatch.setattr(
        inversion, "take_step", lambda *given: losses.append(take_step(*given)) or losses[-1]
    )

    def invert(ema):
        one = language(
            fake,
            [[0], [1], [2]],
            inversion_steps=1,
            inversion_concepts=1,
            inversion_rate=0.05,
            inversion_phrase_weight=0.5,
            ema=ema,
        )
        return invert_part(images, [0, 1, 2], one)

    after = invert(ema=0.0)
    before = (invert(ema=0.75) - 0.25 * after) / 0.75
    assert 0.01 < before.std() < 0.03
    for place, (phrase,) in enumerate(PHRASES.values()):
        word = before[place].clone().requires_grad_()
        loss = one_word_loss(fake, word, images[place], phrase, HIDDEN_ONCE[place], 0.5)
        (loss / 3).backward()
        expected = first_adamw_step(word.detach(), word.grad, rate=0.05)
        assert torch.allclose(after[place], expected, atol=1e-6)
        losses[0] -= loss.item() / 3
    assert losses[0] == pytest.approx(0, abs=1e-5)


def test_inversion_comes_near_to_its_picture(fake):
    images = torch.randn(4, fake.embedding_width, generator=torch.Generator().manual_seed(1))
    near = [[0, 1]] * 4

    def nearness(steps):
        words = invert_part(images, range(4), language(fake, near, inversion_steps=steps, ema=0.5))
        said = fake.encode_prompts(["a photo of $"] * 4, words, placeholder="$")
        return cosine_similarity(said, images).mean().item()

    assert nearness(60) > nearness(1) + 0.3


def test_concepts_are_drawn_from_the_nearest_and_phrases_from_the_concept(fake):
    two = {"dog": ("a dog", "dog food"), "tree": ("one tree",), "sea": ("a sea",)}
    said = language(fake, [[0, 1, 2], [2, 1, 0]], phrases=two)
    rng = np.random.default_rng(0)
    drawn = [tuple(said.draw([1, 0], 2, rng)) for _ in range(60)]
    assert set(drawn) == {("sea", "dog"), ("sea", "tree"), ("tree", "dog"), ("tree", "tree")}
    assert {said.phrases.draw(["dog"], rng)[0] for _ in range(40)} == {"a dog", "dog food"}


def test_the_nearest_concepts_are_those_of_the_mean_over_the_templates(fake):
    templates = ["a photo of $", "$ at home", "the $"]
    images = torch.randn(7, fake.embedding_width, generator=torch.Generator().manual_seed(1))
    found = find_near_concepts(fake, images, CONCEPTS, templates, 3)
    for image, near in zip(images, found.tolist(), strict=True):
        nearness = {}
        for row, concept in enumerate(CONCEPTS):
            each = fake.encode_texts([t.replace("$", concept) for t in templates])
            mean = (each / each.norm(dim=1, keepdim=True)).mean(dim=0)
            nearness[row] = cosine_similarity(mean, image, dim=0).item()
        assert near == sorted(nearness, key=nearness.get, reverse=True)[:3]
    assert find_near_concepts(fake, images, CONCEPTS, templates, 99).shape == (7, len(CONCEPTS))


# One step of distillation


def contrast(words, found, temperature):
    """The distillation loss, word by word."""
    both = [row / row.norm() for row in (*words, *found)]
    count, total = len(words), 0.0
    for i, own in enumerate(both):
        others = {j: own @ both[j] / temperature for j in range(2 * count) if j != i}
        partner = i + count if i < count else i - count
        total += others[partner] - torch.stack(list(others.values())).logsumexp(0)
    return -total / (2 * count)


def test_the_distillation_contrasts_each_word_with_all_others():
    words, found = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    assert distil(words, found, 0.25).item() == pytest.approx(contrast(words, found, 0.25).item())
    assert distil(3 * words, found / 7, 0.25).item() == pytest.approx(
        distil(words, found, 0.25).item(), rel=1e-5
    )
    # two pairs at right angles: the partner at cosine 1, two others at 0
    apart = torch.eye(2)
    assert distil(apart, apart, 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)))


def test_a_step_of_distillation_is_the_papers(fake):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, fake.embedding_width, generator=generator)
    words = torch.randn(3, fake.token_width, generator=generator)
    said = language(
        fake,
        [[0], [1], [2]],
        near_concepts=1,
        batch_size=3,
        hidden=8,
        learning_rate=0.01,
        phrase_weight=0.6,
    )
    learner = make_learner(fake, said.recipe)
    for module in learner.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    by_hand = deepcopy(learner.network)
    found = by_hand(features)
    phrases = [
        1 - cosine_similarity(say(fake, hidden, word), fake.encode_texts([phrase])[0], dim=0)
        for word, hidden, (phrase,) in zip(found, HIDDEN, PHRASES.values(), strict=True)
    ]
    loss = contrast(words, found, 0.25) + 0.6 * sum(phrases) / 3
    loss.backward()
    expected = {
        n: first_adamw_step(p.detach(), p.grad, 0.01) for n, p in by_hand.named_parameters()
    }
    got = distillation._train_epoch(learner, said, features, words, 0)
    assert got == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in learner.network.named_parameters():
        sure = dict(by_hand.named_parameters())[name].grad.abs() > 1e-5  # else rounding has a sign
        assert torch.allclose(parameter[sure], expected[name][sure], atol=1e-5), name


# What is said of concepts


def test_a_concept_is_hidden_where_it_is_spelled():
    assert hide("a dog and a dog", "dog") == "a $ and a $"
    assert hide("a dog and a dog", "dog", 1) == "a $ and a dog"
    assert hide("a red car, new", "red car") == "a $ , new"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_phrases_come_from_a_file_and_a_concept_without_itself_is_left_out(tmp_path):
    path = write(
        tmp_path / "p.tsv",
        "concept\tphrase\ndog\ta photo of dog that runs\ncat\tthe Cat\ndog\tdog food\ncat\ta cat\n",
    )
    found = find_phrases(phrases=path, concepts="", templates=["$"], titles=["sea"])
    assert dict(found.by_concept) == {"dog": ["a photo of dog that runs", "dog food"]}
    assert (found.left_out, found.origin) == (1, "phrases of p.tsv")


def test_without_phrases_each_concept_is_said_in_templates_and_provenance_says_so(tmp_path):
    path = write(tmp_path / "c.txt", "dog\n\n red car \n")
    found = find_phrases(phrases="", concepts=path, templates=["a $", "$ ."], titles=["sea"])
    assert dict(found.by_concept) == {
        "dog": ["a dog", "dog ."],
        "red car": ["a red car", "red car ."],
    }
    assert found.describe()["origin"] == "templates with c.txt: no language model was asked"
    titled = find_phrases(phrases="", concepts="", templates=["a $"], titles=["sea", "", "sea"])
    assert dict(titled.by_concept) == {"sea": ["a sea"]}
    assert "the images' titles: no language model was asked" in titled.describe()["origin"]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("concept\tphrase\ndog\ta dog\ncat\n", CorruptData, r"row 2 \(line 3\) must have 2 fields"),
        ("concept\tphrase\ndog\ta dog\n\ta cat\n", CorruptData, "row 2 must have a concept and a"),
        ("concept\tphrase\ndog\t \n", CorruptData, "row 1 must have a concept and a phrase"),
        ("dog\ta dog\n", CorruptData, "no column `concept`"),
        ("concept\tphrase\ndog\tthe Dog\n", CorruptData, "each concept of .* has a phrase without"),
        ("concept\tphrase\n", UsageError, "needs concepts: --phrases FILE.tsv"),
    ],
)
def test_a_wrong_line_of_phrases_is_named(tmp_path, content, error, words):
    path = write(tmp_path / "p.tsv", content)
    with pytest.raises(error, match=words):
        find_phrases(phrases=path, concepts="", templates=["$"], titles=["sea"])


def test_concepts_that_are_not_there_are_named(tmp_path):
    nothing = {"phrases": "", "concepts": "", "templates": ["$"], "titles": ["", ""]}
    with pytest.raises(UsageError, match="--concepts FILE with one a line"):
        find_phrases(**nothing)
    with pytest.raises(UsageError, match="must not both be given"):
        find_phrases(**{**nothing, "phrases": "a.tsv", "concepts": "c.txt"})
    with pytest.raises(MissingData, match=r"no file of concepts at .*c\.txt"):
        find_phrases(**{**nothing, "concepts": str(tmp_path / "c.txt")})
    with pytest.raises(MissingData, match=r"a\.tsv"):
        find_phrases(**{**nothing, "phrases": str(tmp_path / "a.tsv")})
    with pytest.raises(CorruptData, match="must have at least one line"):
        find_phrases(**{**nothing, "concepts": write(tmp_path / "e.txt", "\n \n")})


def test_templates_have_one_word_of_their_own(tmp_path):
    assert len(set(TEMPLATES)) == 24
    assert all(template.split().count("$") == 1 for template in TEMPLATES)
    assert read_templates("") == TEMPLATES
    assert read_templates(write(tmp_path / "t.txt", "a $ \n\n$ here\n")) == ("a $", "$ here")
    for wrong in ("a thing", "a $ and a $", "the $,"):
        with pytest.raises(CorruptData, match=r"one \$ with spaces around it, got '"):
            read_templates(write(tmp_path / "w.txt", f"a $\n{wrong}\n"))


# The training


def test_it_learns_and_its_weights_are_a_method(fake, picture_refs, tmp_path):
    made = job(fake, picture_refs(10), tmp_path / "s.safetensors", epochs=30)
    train(made, QUIET)
    losses = [float(row["loss"]) for row in log_of(made)]
    assert len(losses) == 30
    assert losses[-1] < losses[0]
    checkpoint = read_checkpoint(made.output)
    header = checkpoint.provenance
    assert header["final_loss"] == pytest.approx(losses[-1])
    assert header["phrases"]["origin"] == (
        "templates with the images' titles: no language model was asked"
    )
    assert (header["phrases"]["concepts"], header["templates"]["count"]) == (5, 24)
    assert (header["recipe"]["ema"], header["images"]["count"]) == (0.99, 10)
    assert "phrases" not in header["recipe"]
    assert Searle.build(backbone=fake, checkpoint=checkpoint).trained_on == "made pictures"
    assert sorted(path.name for path in tmp_path.glob("s.*")) == ["s.log.csv", "s.safetensors"]


class _Stop(Exception):
    pass


def stop_at(monkeypatch, where, number, error=_Stop):
    """Let the function `where` fail when it is called for the time of that number, from 0."""
    module, name = where
    original, calls = getattr(module, name), []

    def counted(*given, **more):
        calls.append(given)
        if len(calls) == number + 1:
            raise error
        return original(*given, **more)

    monkeypatch.setattr(module, name, counted)


INVERSION, NETWORK = (inversion, "invert_part"), (distillation, "_train_epoch")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    ("where", "number", "left"),
    [
        (INVERSION, 0, []),
        (INVERSION, 2, ["b.words.safetensors"]),
        (NETWORK, 0, ["b.words.safetensors"]),
        (NETWORK, 2, ["b.log.csv", "b.state.safetensors", "b.words.safetensors"]),
    ],
)
def test_what_was_broken_off_is_resumed_with_the_same_bits(
    fake, picture_refs, tmp_path, monkeypatch, where, number, left, error
):
    refs = picture_refs(10)
    unbroken = job(fake, refs, tmp_path / "a.safetensors")
    train(unbroken, QUIET)
    broken = job(fake, refs, tmp_path / "b.safetensors")
    with monkeypatch.context() as patches:
        stop_at(patches, where, number, error)
        with pytest.raises(error):
            train(broken, QUIET)
    assert sorted(path.name for path in tmp_path.glob("b.*")) == left
    if left:
        with pytest.raises(UsageError, match="pass --resume to continue it"):
            train(broken, QUIET)
    torch.manual_seed(99)  # what was drawn elsewhere must not matter
    train(broken, QUIET, resume=True)
    first, second = (read_checkpoint(made.output).content for made in (unbroken, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_of(unbroken) == log_of(broken)


def test_what_was_inverted_is_not_inverted_again(fake, picture_refs, tmp_path, monkeypatch):
    made = job(fake, picture_refs(10), tmp_path / "s.safetensors")
    with monkeypatch.context() as patches:
        stop_at(patches, NETWORK, 0)
        with pytest.raises(_Stop):
            train(made, QUIET)
    stop_at(monkeypatch, INVERSION, 0)
    train(made, QUIET, resume=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inversion_rate": 0.5}, "recipe.inversion_rate: 0.02 then, 0.5 now"),
        ({"phrases": said_of()}, "phrases.origin: templates with the images' titles: .* by hand"),
        ({"templates": ("the $",)}, "templates.count: 24 then, 1 now"),
    ],
)
def test_a_resume_of_another_training_names_the_difference(
    fake, picture_refs, tmp_path, monkeypatch, change, words
):
    made = job(fake, picture_refs(10), tmp_path / "s.safetensors")
    stop_at(monkeypatch, NETWORK, 0)
    with pytest.raises(_Stop):
        train(made, QUIET)
    with pytest.raises(UsageError, match=words):
        train(job(fake, picture_refs(10), made.output, **change), QUIET, resume=True)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ({"inversion_rate": 1e25}, "at step . of the images from 1; --resume"),
        ({"learning_rate": 1e30}, "at step .; --resume"),
    ],
)
def test_a_loss_that_is_not_finite_stops(fake, picture_refs, tmp_path, rate, words):
    made = job(fake, picture_refs(10), tmp_path / "s.safetensors", **rate)
    with pytest.raises(CheckFailed, match=words):
        train(made, QUIET)
    assert not made.output.exists()


def test_a_batch_larger_than_the_images_is_refused(fake, picture_refs, tmp_path):
    with pytest.raises(UsageError, match="got 11 of 10; lower --batch-size"):
        train(job(fake, picture_refs(10), tmp_path / "s.safetensors", batch_size=11), QUIET)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"inversion_steps": 0}, "inversion_steps must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"inversion_rate": float("nan")}, "inversion_rate must be above 0, got nan"),
        ({"phrase_weight": -0.5}, "phrase_weight must be at least 0"),
        ({"ema": 1.0}, "ema must be below 1"),
    ],
)
def test_numbers_that_no_training_can_have_are_refused(wrong, words):
    with pytest.raises(UsageError, match=words):
        SearleRecipe(**wrong)


def test_the_defaults_are_the_papers_and_for_emoji_small_ones():
    paper, emoji = (SearleTraining().default_recipe(name) for name in ("imagenet", "emoji"))
    inverted = (paper.inversion_steps, paper.inversion_batch, paper.inversion_rate, paper.ema)
    assert inverted == (350, 32, 0.02, 0.99)
    assert (paper.inversion_concepts, paper.inversion_phrase_weight) == (15, 0.5)
    learned = (paper.epochs, paper.batch_size, paper.learning_rate, paper.weight_decay)
    assert learned == (100, 256, 1e-4, 0.01)
    assert (paper.near_concepts, paper.phrase_weight, paper.temperature) == (150, 0.75, 0.25)
    assert paper.hidden is None
    assert emoji.epochs < paper.epochs


# The command


def test_the_command_trains_what_bench_run_evaluates(bench, picture_folder, tmp_path):
    weights, concepts = tmp_path / "s.safetensors", write(tmp_path / "c.txt", "\n".join(CONCEPTS))
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    command = ("train", "searle", "--images", picture_folder, "-b", "fake", "-o", weights)
    code, out, err = bench(*command, *options, "--concepts", concepts)
    assert (code, out) == (0, f"{weights}\n"), err
    assert "18 steps on 24 images; templates with c.txt: no language model was asked" in err
    run = ("run", "-m", "searle", "-t", "emoji", "--split", "val", "--limit", 8, "-b", "fake")
    code, _, err = bench(*run, "--checkpoint", weights, "-o", tmp_path / "r")
    assert code == 0, err
    code, _, err = bench(*run, "--checkpoint", weights, "-o", tmp_path / "r", "--dry-run")
    assert code == 0, err


def test_images_without_titles_want_concepts(bench, picture_folder, tmp_path):
    weights = tmp_path / "s.safetensors"
    code, _, err = bench("train", "searle", "--images", picture_folder, "-b", "fake", "-o", weights)
    assert code == 2
    assert "textual inversion needs concepts: --phrases FILE.tsv" in err
    assert not weights.exists()


def test_a_phrase_that_is_cut_before_its_concept_is_refused_at_once(
    bench, picture_folder, tmp_path
):
    lines = ["concept\tphrase", "dog\ta dog", f"cat\t{'so ' * 80}fine a cat", "sea\tthe sea"]
    phrases = write(tmp_path / "p.tsv", "\n".join(lines))
    weights = tmp_path / "s.safetensors"
    command = ("train", "searle", "--images", picture_folder, "-b", "fake", "-o", weights)
    code, _, err = bench(*command, "--phrases", phrases)
    assert code == 2
    assert "within the 77 tokens that fake reads, got 'cat' in 'so so" in err
    assert "inversion" not in err


def test_the_help_has_the_recipe_of_both_stages(bench):
    code, out, _ = bench("train", "searle", "--help")
    assert code == 0
    for option in ("--images", "--inversion-steps", "--phrases", "--temperature", "--resume"):
        assert option in out
