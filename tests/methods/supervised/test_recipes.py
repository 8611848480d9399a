"""The schedules of the papers, as numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cirbench.benchmark.api.registry import expand_task, find_training
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.methods.artemis.training import ArtemisRecipe
from cirbench.methods.cirplant.training import CirplantRecipe
from cirbench.methods.maaf.training import MaafRecipe
from cirbench.methods.tirg.training import TirgRecipe

NAMES = ("tirg", "maaf", "artemis", "cirplant")
STEPS_OF_CIRR = 28_225 // 32


@pytest.mark.parametrize(("recipe", "steps"), [(TirgRecipe(), 160_000), (MaafRecipe(), 150_000)])
def test_tirg_and_maaf_take_so_many_steps_of_sgd_and_their_rate_falls_every_50_000(recipe, steps):
    assert recipe.optimizer == "sgd"
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size) == (1e-2, 1e-6, 32)
    assert recipe.count_epochs(1) == steps
    for step, rate in {
        0: 1,
        49_999: 1,
        50_000: 0.1,
        99_999: 0.1,
        100_000: 0.01,
        149_999: 0.01,
        150_000: 0.001,
    }.items():
        assert recipe.find_rate(step // 562, step) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("steps", "an_epoch", "epochs"),
    [(160_000, 562, 285), (1124, 562, 2), (1125, 562, 3), (1, 562, 1)],
)
def test_steps_are_rounded_up_to_whole_epochs(steps, an_epoch, epochs):
    assert TirgRecipe(steps=steps).count_epochs(an_epoch) == epochs


def test_what_of_tirg_and_maaf_learns_slowly_is_what_was_trained_before_and_what_is_beside_it():
    assert TirgRecipe.trunk_parts == ArtemisRecipe.trunk_parts == ("trunk.",)
    assert MaafRecipe.trunk_parts == ("trunk.", "projections.")
    assert TirgRecipe().trunk_rate == MaafRecipe().trunk_rate == 0.1
    assert ArtemisRecipe().trunk_rate == 1


def test_maaf_is_as_wide_as_on_fashion_iq_and_its_batches_are_of_one_category():
    recipe = MaafRecipe()
    assert (recipe.width, recipe.blocks, recipe.heads, recipe.hidden) == (128, 2, 8, 128)
    assert recipe.sampler == "category"
    assert TirgRecipe().sampler == ArtemisRecipe().sampler == "random"


def test_artemis_has_two_stages_and_halves_its_rate_in_both():
    recipe = ArtemisRecipe()
    assert (recipe.optimizer, recipe.weight_decay, recipe.batch_size) == ("adamw", 0.01, 32)
    assert recipe.count_epochs(STEPS_OF_CIRR) == 58
    rates = [recipe.learning_rate * recipe.find_rate(e, e * STEPS_OF_CIRR) for e in range(58)]
    assert rates == pytest.approx(
        [5e-4] * 4
        + [2.5e-4] * 4
        + [2.5e-4] * 10
        + [1.25e-4] * 10
        + [6.25e-5] * 10
        + [3.125e-5] * 10
        + [1.5625e-5] * 10
    )


def test_trunk_and_word_vectors_of_artemis_learn_in_the_second_stage_alone():
    recipe = ArtemisRecipe()
    frozen = [recipe.list_frozen(epoch) for epoch in range(58)]
    assert frozen == [("trunk.", "text.embedding.")] * 8 + [()] * 50


@pytest.mark.parametrize("first_epochs", [0, 1])
def test_a_first_stage_that_is_too_short_to_be_halved_leaves_the_rate(first_epochs):
    recipe = ArtemisRecipe(first_epochs=first_epochs, epochs=12)
    assert [recipe.find_rate(first_epochs + e, 0) for e in range(12)] == [1] * 10 + [0.5] * 2


def test_cirplants_rate_falls_once_an_epoch_and_hardly_at_all():
    recipe = CirplantRecipe()
    assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size) == ("adamw", 1e-5, 32)
    assert recipe.count_epochs(529) == 300
    for epoch in (0, 1, 150, 299):
        found = {recipe.find_rate(epoch, epoch * 529 + step) for step in (0, 528)}
        assert found == {1 - epoch / 158_700}
    assert round(recipe.find_rate(300, 0), 3) == 0.998


def test_cirplant_cuts_gradients_at_1_and_nobody_else_does():
    cut = {name: find_training(name).recipe.largest_gradient for name in NAMES}
    assert cut == {"tirg": None, "maaf": None, "artemis": None, "cirplant": 1.0}


def test_biases_and_layer_norms_of_cirplant_do_not_decay():
    recipe = CirplantRecipe()
    assert recipe.weight_decay == 0.05
    layer = "bert.encoder.layer.0.attention"
    for name in (f"{layer}.self.query.weight", "image_projection.weight"):
        assert recipe.is_decayed(name)
    for name in (
        f"{layer}.self.query.bias",
        f"{layer}.output.LayerNorm.weight",
        f"{layer}.output.LayerNorm.bias",
        "image_projection.bias",
    ):
        assert not recipe.is_decayed(name)


@pytest.mark.parametrize(
    ("name", "augmentation"),
    [("tirg", "none"), ("maaf", "maaf"), ("artemis", "artemis"), ("cirplant", "none")],
)
def test_pictures_are_changed_as_in_the_paper(name, augmentation):
    assert find_training(name).recipe().augmentation == augmentation


@pytest.mark.parametrize(
    ("name", "task", "protocol"),
    [
        ("tirg", "fashion-iq", "maaf"),
        ("maaf", "fashion-iq", "maaf"),
        ("artemis", "fashion-iq", "artemis"),
        ("artemis", "cirr", "soft"),
        ("cirplant", "cirr", "soft"),
    ],
)
def test_an_epoch_is_chosen_by_the_papers_own_protocol(name, task, protocol):
    found, metrics = find_training(name).selection[task]
    assert found == protocol
    assert metrics == {"fashion-iq": ("R@10", "R@50"), "cirr": ("SR@5", "SRs@1")}[task]


@pytest.mark.parametrize("name", NAMES)
def test_the_small_recipe_is_of_the_embedded_tasks_alone(name):
    training = find_training(name)()
    assert training.default_recipe("cirr") == training.recipe()
    changed = replace(training.recipe(), **training.on_embedded)
    for task in expand_task("embedded"):
        assert training.default_recipe(task) == changed != training.recipe()


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("tirg", "sampler", "pure", "sampler must be random or category, got 'pure'"),
        ("tirg", "batch_size", 1, "batch_size must be at least 2, got 1"),
        ("tirg", "steps", 0, "steps must be at least 1, got 0"),
        ("maaf", "drop_every", 0, "drop_every must be at least 1, got 0"),
        ("maaf", "width", -8, "width must be at least 1, got -8"),
        ("artemis", "halve_every", 0, "halve_every must be at least 1, got 0"),
        ("artemis", "first_epochs", -1, "first_epochs must be at least 0, got -1"),
        ("cirplant", "epochs", 0, "epochs must be at least 1, got 0"),
        ("cirplant", "seed", -1, "seed must be at least 0, got -1"),
        ("tirg", "trunk_rate", -0.1, "trunk_rate must be at least 0, got -0.1"),
        ("artemis", "learning_rate", 0.0, "learning_rate must be above 0, got 0.0"),
        ("artemis", "learning_rate", float("nan"), "learning_rate must be above 0, got nan"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_what_it_must_be(name, field, value, words):
    with pytest.raises(UsageError, match=words):
        find_training(name).recipe(**{field: value})
