"""ARTEMIS's network, against the authors' numbers and by itself."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from networks import (
    TRUNK,
    assert_gradients,
    assert_near,
    draw,
    golden_trunk,
    needs_golden,
    prepare_gradients,
    read_golden,
    scramble,
)
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from cirbench.benchmark.backbones import trunks
from cirbench.methods.artemis import method as artemis
from cirbench.methods.artemis.method import (
    ArtemisNetwork,
    ArtemisShape,
    pool_cubes,
    rename_official,
    score,
)
from cirbench.methods.supervised.losses import tempered_score_loss
from cirbench.methods.supervised.vocabulary import ArtemisVocabulary, TokenBatch, pad

FILES = ("dev_artemis_bigru", "dev_artemis_features")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setitem(trunks.TRUNKS, TRUNK, golden_trunk)

    def read(name):
        golden = read_golden(name)
        words = golden.facts["vocabulary"]
        vocabulary = ArtemisVocabulary(tuple(sorted(words, key=words.get)))
        texts = vocabulary.encode_batch(
            [" <and> ".join(pair) for pair in golden.facts["caption_pairs"]]
        )
        assert torch.equal(texts.ids, golden["in/sentences"])
        assert torch.equal(texts.lengths, golden["in/lengths"])
        pictures = golden["in/features"] if "in/features" in golden.tensors else golden.pixels
        network = ArtemisNetwork.from_official(golden.state, TRUNK).eval()
        return golden, network, pictures, texts

    return read


@needs_golden
@pytest.mark.parametrize("name", FILES)
def test_the_authors_vectors_and_scores(load, name):
    golden, network, pictures, texts = load(name)
    with torch.no_grad():
        gallery, words = network.embed_images(pictures), network.embed_texts(texts)
        queries = network.compose(pictures[:4], texts)
        scores = score(queries, gallery)
    assert_near(gallery, golden["eval/gallery"])
    assert_near(gallery[:4], golden["eval/reference"])
    assert_near(words, golden["eval/text"])
    assert_near(network.explicit_attention(words), golden["eval/A_EM"])
    assert_near(network.implicit_attention(words), golden["eval/A_IS"])
    assert_near(normalize(network.transform(words), dim=1), golden["eval/Tr_m"])
    assert_near(queries, golden["eval/query_factors"])
    assert_near(scores, golden["eval/scores"])


@needs_golden
@pytest.mark.parametrize("name", FILES)
def test_the_authors_loss_and_gradients_in_training(load, name):
    golden, network, pictures, texts = load(name)
    prepare_gradients(network)
    pictures = pictures.double()
    scores = score(network.compose(pictures[:4], texts), network.embed_images(pictures[4:8]))
    assert_near(scores.float(), golden["train/scores"])
    loss = tempered_score_loss(scores, network.temperature)
    assert loss.item() == pytest.approx(golden.facts["loss_train_no_dropout"], rel=1e-4)
    loss.backward()
    assert_gradients(network, rename_official({n: n for n in golden.state}), golden)


def make(**shape) -> ArtemisNetwork:
    texts = {} if "text_width" in shape else {"words": 9, "word_width": 5}
    return scramble(ArtemisNetwork(ArtemisShape(width=8, **texts, **shape)))


TEXTS = pad([[1, 4, 5, 3], [1, 3]])


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_published_size_of_the_heads():
    network = ArtemisNetwork(ArtemisShape(image_width=2048, words=9))
    heads = (network.transform, network.explicit_attention, network.implicit_attention)
    assert count(*heads) == 1_313_280
    assert network.temperature.item() == pytest.approx(math.log(1 / 0.07), abs=1e-4)


def score_by_hand(network, images, texts, gallery):
    """The form of the paper, with an index of queries, of pictures, and of channels."""
    explicit, implicit = network.explicit_attention(texts), network.implicit_attention(texts)
    wanted = normalize(network.transform(texts), dim=1)
    seen = normalize(implicit * images, dim=1, eps=1e-15)
    em = wanted[:, None] * normalize(explicit[:, None] * gallery, dim=2, eps=1e-15)
    im = seen[:, None] * normalize(implicit[:, None] * gallery, dim=2, eps=1e-15)
    return (em + im).sum(dim=2)


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 10.0, 100.0])
def test_the_factorised_score_is_the_papers(sharpness):
    network = make(image_width=5, text_width=4)
    images, gallery = draw(6, 8), normalize(draw(9, 8, seed=1), dim=1)
    texts = normalize(draw(6, 8, seed=2), dim=1)
    with torch.no_grad():
        for attention in (network.explicit_attention, network.implicit_attention):
            attention[2].weight.mul_(sharpness)
            attention[2].bias.mul_(sharpness)
        found = score(network.combine(images, texts), gallery)
        expected = score_by_hand(network, images, texts, gallery)
    assert_near(found, expected)
    assert found.std() > 0.1


def test_the_length_of_a_gallery_vector_drops_out():
    network = make(image_width=5, text_width=4)
    with torch.no_grad():
        queries = network.compose(draw(3, 5), draw(3, 4))
        gallery = draw(7, 8, seed=1)
        lengths = torch.logspace(-3, 3, 7)[:, None]
        assert_near(score(queries, gallery * lengths), score(queries, gallery))


def test_a_pair_that_vanishes_scores_nothing_and_has_a_gradient():
    network = make(image_width=5, text_width=4)
    with torch.no_grad():
        for attention in (network.explicit_attention, network.implicit_attention):
            attention[2].weight.zero_()
            attention[2].bias.copy_(torch.tensor([200.0] + [0.0] * 7))  # all on the first channel
    images, gallery = draw(2, 8).requires_grad_(), draw(2, 8, seed=1)
    gallery[1, 0] = 0.0
    scores = score(network.combine(images, normalize(draw(2, 8), dim=1)), gallery)
    assert scores[:, 1].tolist() == [0.0, 0.0]
    assert scores[:, 0].abs().min() > 0
    scores.sum().backward()
    assert images.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_query_is_four_vectors_and_scores_within_two():
    network = make(trunk="tiny")
    pixels = draw(3, 3, 48, 48)
    with torch.no_grad():
        queries = network.compose(pixels[:2], TEXTS)
        gallery = network.embed_images(pixels)
        scores = score(queries, gallery)
    assert queries.shape == (2, 4, 8)
    assert scores.shape == (2, 3)
    assert scores.abs().max() <= 2
    torch.testing.assert_close(gallery.norm(dim=1), torch.ones(3))


def test_a_part_of_the_gallery_scores_as_it_does_in_the_whole():
    network = make(image_width=5, text_width=4)
    with torch.no_grad():
        queries, gallery = network.compose(draw(3, 5), draw(3, 4)), draw(40, 8)
        parts = [score(queries, part) for part in gallery.split(7)]
        assert_near(torch.cat(parts, dim=1), score(queries, gallery), 1e-6)


def test_how_many_pictures_are_scored_at_once_changes_neither_scores_nor_gradients(monkeypatch):
    queries, gallery = draw(3, 4, 8).abs(), draw(40, 8)
    found = []
    for at_once in (40, 7):
        monkeypatch.setattr(artemis, "PICTURES_AT_ONCE", at_once)
        asked, shown = queries.clone().requires_grad_(), gallery.clone().requires_grad_()
        scores = score(asked, shown)
        scores.square().sum().backward()
        found.append((scores.detach(), asked.grad, shown.grad))
    for whole, parts in zip(*found, strict=True):
        assert_near(parts, whole, 1e-5)


class LargestResult(TorchDispatchMode):
    """Watches how many numbers any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_step_of_the_score_holds_a_vector_for_each_pair():
    queries, gallery = draw(20, 4, 8).abs(), draw(50, 8)
    with LargestResult() as largest:
        score(queries, gallery)
    assert largest.numbers == 20 * 50


def test_frozen_features_keep_their_length():
    network = make(image_width=5, text_width=4)
    features = draw(2, 5)
    with torch.no_grad():
        torch.testing.assert_close(
            network.embed_images(features), network.image_projection(features)
        )
        torch.testing.assert_close(network.embed_texts(draw(2, 4)).norm(dim=1), torch.ones(2))


def test_cubes_are_pooled():
    maps = draw(2, 3, 4, 5)
    expected = np.cbrt(np.mean(np.maximum(maps.double().numpy(), 1e-6) ** 3, axis=(2, 3)))
    np.testing.assert_allclose(pool_cubes(maps).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("tower", ["bigru", "lstm"])
def test_padding_never_changes_a_text_in_evaluation(tower):
    network = make(image_width=5, text_tower=tower, lstm_width=6)
    with torch.no_grad():
        alone = network.embed_texts(pad([[1, 3]]))
        filled = TokenBatch(torch.tensor([[1, 3, 8, 6]]), torch.tensor([2]))
        torch.testing.assert_close(network.embed_texts(TEXTS)[1:], alone)
        torch.testing.assert_close(network.embed_texts(filled), alone)


def test_the_bigru_reads_from_both_ends():
    network = make(image_width=5)
    gru = network.text.gru
    with torch.no_grad():
        steps, _ = gru(network.text.embedding(TEXTS.ids[:1]))
        expected = torch.cat([steps[0, -1, :4], steps[0, 0, 4:]])
        torch.testing.assert_close(network.text(TEXTS)[0], expected)


def test_the_lstm_takes_the_greatest_of_all_steps_in_training_alone():
    network = make(image_width=5, text_tower="lstm", lstm_width=6)
    text = network.text
    with torch.no_grad():
        steps, _ = text.lstm(text.embedding(TEXTS.ids))
        own = text.output(steps[1, :2].amax(dim=0))
        all_steps = text.output(steps[1].amax(dim=0))
        assert (own - all_steps).abs().max() > 1e-3
        torch.testing.assert_close(text(TEXTS)[1], own)
        torch.testing.assert_close(text(TEXTS, over_padding=True)[1], all_steps)
        network.train()
        text.dropout.p = 0.0
        torch.testing.assert_close(text(TEXTS)[1], all_steps)
        torch.testing.assert_close(text(TEXTS, over_padding=False)[1], own)


def test_the_authors_names_of_the_lstm_form():
    network = make(image_width=5, text_tower="lstm", lstm_width=6)
    theirs = {}
    for name, tensor in network.state_dict().items():
        for ours, official in (
            ("image_projection.", "img_enc.linear."),
            ("text.embedding.", "txt_enc.embed."),
            ("text.lstm.", "txt_enc.sent_enc.0."),
            ("text.output.", "txt_enc.sent_enc.2."),
            ("transform.", "Transform_m.0."),
            ("explicit_attention.", "Attention_EM.attention."),
            ("implicit_attention.", "Attention_IS.attention."),
            ("temperature", "temperature"),
        ):
            if name.startswith(ours):
                theirs[official + name.removeprefix(ours)] = tensor
    loaded = ArtemisNetwork.from_official(theirs).eval()
    assert loaded.shape == network.shape
    with torch.no_grad():
        features = draw(2, 5)
        assert torch.equal(loaded.compose(features, TEXTS), network.compose(features, TEXTS))


def test_a_shape_can_be_stored_as_json():
    shape = ArtemisShape(trunk="tiny", words=9, text_tower="lstm")
    assert ArtemisShape(**json.loads(json.dumps(asdict(shape)))) == shape


@pytest.mark.parametrize(
    ("shape", "fault"),
    [({"text_tower": "bert"}, "bigru, lstm, got 'bert'"), ({"width": 7}, "even, got 7")],
)
def test_a_shape_that_makes_no_network_is_refused(shape, fault):
    with pytest.raises(ValueError, match=fault):
        ArtemisShape(trunk="tiny", words=9, **shape)
