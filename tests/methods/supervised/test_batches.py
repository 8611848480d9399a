"""Which triplets a step sees, and what of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from places import SHARED
from triplets import PROTOCOL, WORDINGS, make_training_job, make_triplets

from cirbench.benchmark.api.values import ImageRef, Triplet
from cirbench.datasets import fashion_iq
from cirbench.methods.artemis.method import Artemis
from cirbench.methods.artemis.training import ArtemisRecipe
from cirbench.methods.maaf.method import Maaf
from cirbench.methods.supervised import training
from cirbench.methods.supervised.batches import (
    choose_rows,
    count_steps,
    make_batches,
    make_examples,
)
from cirbench.methods.supervised.vocabulary import ArtemisVocabulary, TirgVocabulary
from cirbench.methods.tirg.method import Tirg
from cirbench.methods.tirg.training import TirgRecipe

CAPTIONS = SHARED / "data" / "fashion-iq" / "captions"
needs_captions = pytest.mark.skipif(
    not CAPTIONS.is_dir(), reason="needs the reference data: the real annotations"
)


def refs_of(count, first=0):
    return [ImageRef(id=str(first + i), read=bytes) for i in range(count)]


def examples_of(count, *, groups=("all",), every_order=False):
    triplets = [
        replace(triplet, group=groups[i % len(groups)])
        for i, triplet in enumerate(make_triplets(refs_of(2 * count)))
    ]
    return make_examples(triplets, PROTOCOL, "caption", every_order=every_order)


def recipe_of(**numbers):
    return TirgRecipe(**{"batch_size": 8, **numbers})


@pytest.mark.parametrize(("count", "steps"), [(24, 3), (30, 3), (5, 1)])
def test_random_batches_see_each_example_once_but_for_those_that_fill_no_batch(count, steps):
    examples, size = examples_of(count), min(8, count)
    assert count_steps(examples, recipe_of()) == steps
    for epoch in range(3):
        rows = choose_rows(examples, recipe_of(), epoch)
        assert [len(step) for step in rows] == [size] * steps
        assert len(set(np.concatenate(rows).tolist())) == size * steps


def test_the_examples_that_fill_no_batch_differ_between_epochs():
    examples = examples_of(30)
    seen = [set(np.concatenate(choose_rows(examples, recipe_of(), e)).tolist()) for e in range(20)]
    assert set.union(*seen) == set(range(30))


def test_category_batches_are_pure_and_drawn_with_replacement_by_a_groups_share():
    examples = examples_of(300, groups=("few", "many", "many"))
    recipe = recipe_of(sampler="category", batch_size=4)
    found = [rows for epoch in range(10) for rows in choose_rows(examples, recipe, epoch)]
    assert len(found) == 10 * count_steps(examples, recipe) == 750
    groups = [{examples[row].triplet.group for row in rows} for rows in found]
    assert all(len(group) == 1 for group in groups)
    share = sum(group == {"few"} for group in groups) / len(groups)
    assert share == pytest.approx(1 / 3, abs=0.06)  # three and a half deviations
    counts = Counter(row for rows in found for row in rows.tolist())
    assert len(counts) == 300
    assert max(counts.values()) > 12


def test_a_category_of_few_examples_still_fills_its_batch():
    examples = examples_of(9, groups=("few", *["many"] * 8))
    found = [r for e in range(40) for r in choose_rows(examples, recipe_of(sampler="category"), e)]
    assert [0] * 8 in [rows.tolist() for rows in found]


@pytest.mark.parametrize("sampler", ["random", "category"])
def test_what_is_chosen_is_a_function_of_seed_and_epoch(sampler):
    examples = examples_of(64, groups=("a", "b"))

    def choose(epoch=0, **numbers):
        return np.concatenate(choose_rows(examples, recipe_of(sampler=sampler, **numbers), epoch))

    np.random.seed(1)
    first = choose()
    np.random.seed(2)
    assert np.array_equal(choose(), first)
    assert not np.array_equal(choose(epoch=1), first)
    assert not np.array_equal(choose(seed=1), first)


def read_first(steps, epoch):
    """A picture is the number that it is called by."""
    for refs in steps:
        yield torch.tensor([[float(ref.id)] for ref in refs])


def batches_of(examples, epoch=0, **numbers):
    return list(make_batches(examples, recipe_of(**numbers), epoch, read_first, list))


def test_a_batch_holds_each_triplets_pictures_and_a_text_of_its_own():
    examples = [
        replace(one, texts=[f"{one.triplet.reference.id} or so"]) for one in examples_of(24)
    ]
    for batch in batches_of(examples):
        references = batch.references[:, 0].tolist()
        assert batch.targets[:, 0].tolist() == [1 + number for number in references]
        assert batch.texts == [f"{number:.0f} or so" for number in references]
        assert len(batch.equals) == 0
        assert batch.positives == [[8 + i] for i in range(8)]


def test_every_wording_is_drawn_and_an_epoch_is_the_same_again():
    examples = examples_of(24)
    first, other, again = (batches_of(examples, epoch) for epoch in (0, 1, 0))
    assert {text for batch in first for text in batch.texts} == set(WORDINGS)
    assert [b.texts for b in first] == [b.texts for b in again]
    assert [b.texts for b in first] != [b.texts for b in other]
    assert [b.texts for b in first] != [b.texts for b in batches_of(examples, seed=1)]


def test_what_a_loss_draws_is_a_function_of_seed_epoch_and_step():
    def draw(epoch=0, **numbers):
        return [batch.rng.random() for batch in batches_of(examples_of(24), epoch, **numbers)]

    found = draw()
    assert draw() == found
    assert len({*found, *draw(epoch=1), *draw(seed=1)}) == 9


def test_the_positives_of_a_query_are_its_target_and_its_own_equals():
    refs, equals = refs_of(8), refs_of(3, first=100)
    own = [equals[:2], [], equals[2:], []]
    examples = make_examples(
        [replace(t, equals=tuple(e)) for t, e in zip(make_triplets(refs), own, strict=True)],
        PROTOCOL,
        "caption",
        every_order=False,
    )
    [batch] = batches_of(examples, batch_size=4)
    rows = torch.cat([torch.full((4, 1), torch.nan), batch.targets, batch.equals])[:, 0].tolist()
    wanted = {example.triplet.reference.id: example.triplet for example in examples}
    for reference, positives in zip(batch.references[:, 0].tolist(), batch.positives, strict=True):
        triplet = wanted[f"{reference:.0f}"]
        answers = [float(ref.id) for ref in (triplet.target, *triplet.equals)]
        assert [rows[row] for row in positives] == answers


def test_a_triplet_without_fields_is_worded_by_its_captions():
    bare = [replace(triplet, fields=()) for triplet in make_triplets(refs_of(4))]
    for example in make_examples(bare, PROTOCOL, "text", every_order=False):
        assert list(example.texts) == list(WORDINGS)


def test_words_are_the_protocols_and_every_order_can_be_an_example():
    triplets = make_triplets(refs_of(4))
    one = make_examples(triplets, PROTOCOL, "text", every_order=False)
    each = make_examples(triplets, PROTOCOL, "text", every_order=True)
    texts = [f"the {text}" for text in WORDINGS]
    assert [example.texts for example in one] == [texts, texts]
    assert [example.texts for example in each] == [[text] for text in texts] * 2
    assert [e.triplet for e in each] == [triplets[0], triplets[0], triplets[1], triplets[1]]


FASHION = Triplet(
    reference=ImageRef(id="a", read=bytes),
    target=ImageRef(id="b", read=bytes),
    captions=fashion_iq.make_wordings(["is Longer.", "more red"]),
    group="dress",
    fields=tuple(
        fashion_iq.make_caption_fields(pair)
        for pair in (["is Longer.", "more red"], ["more red", "is Longer."])
    ),
)


@pytest.mark.parametrize("method", [Tirg, Maaf])
def test_tirg_and_maaf_draw_an_order_of_fashion_iqs_captions(method):
    family = method.find_family(fashion_iq.MAAF)
    [example] = make_examples([FASHION], fashion_iq.MAAF, family, every_order=False)
    assert example.texts == [
        "is Longer. inadditiontothat more red",
        "more red inadditiontothat is Longer.",
    ]


def test_artemis_sees_both_orders_of_fashion_iqs_captions_as_two_examples():
    assert ArtemisRecipe.every_order
    family = Artemis.find_family(fashion_iq.ARTEMIS)
    found = make_examples([FASHION], fashion_iq.ARTEMIS, family, every_order=True)
    assert [example.texts for example in found] == [
        ["is Longer. <and> more red"],
        ["more red <and> is Longer."],
    ]


@needs_captions
@pytest.mark.parametrize(
    ("method", "vocabulary", "protocol", "words"),
    [
        (Artemis, ArtemisVocabulary, fashion_iq.ARTEMIS, 3_775),
        (Tirg, TirgVocabulary, fashion_iq.MAAF, 3_946),  # with the marker
    ],
)
def test_the_words_of_the_real_training_are_the_published_ones(method, vocabulary, protocol, words):
    rows = (
        row
        for category in fashion_iq.CATEGORIES
        for _, row in fashion_iq.read_triplets(CAPTIONS / f"cap.{category}.train.json")
    )
    orders = (row["captions"] for row in rows)
    triplets = [
        replace(
            FASHION,
            fields=tuple(fashion_iq.make_caption_fields(c) for c in (pair, pair[::-1])),
        )
        for pair in orders
    ]
    family = method.find_family(protocol)
    examples = make_examples(triplets, protocol, family, every_order=True)
    assert len(examples) == 36_000
    built = vocabulary.build(text for example in examples for text in example.texts)
    assert len(built) == words + len(vocabulary.specials)


@pytest.mark.parametrize("method", ["tirg", "artemis"])
def test_the_number_of_threads_changes_nothing(method, picture_refs, tmp_path, tiny):
    def see(workers):
        job = replace(
            make_training_job(method, tiny, picture_refs(48), tmp_path / "a", augmentation="maaf"),
            workers=workers,
        )
        _, words = training.start(job)
        towers = training.OwnTowers(job, words)
        readers = (towers.read_pictures, towers.read_texts)
        return list(make_batches(job.examples, job.recipe, 3, *readers))

    one, many = see(1), see(4)
    assert len(one) == len(many) > 1
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a.references, b.references)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.texts.ids, b.texts.ids)
