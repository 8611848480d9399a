"""MAAF's network, against the authors' numbers and by itself."""

from __future__ import annotations

import json
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

from cirbench.benchmark.backbones import trunks
from cirbench.methods.maaf.method import (
    Attention,
    MaafNetwork,
    MaafShape,
    MapProjection,
    SampleNorm,
    rename_official,
)
from cirbench.methods.supervised.losses import scaled_cosine_loss
from cirbench.methods.supervised.vocabulary import MaafVocabulary, TokenBatch, pad


@pytest.fixture
def golden():
    return read_golden("dev_maaf")


@pytest.fixture
def network(golden, monkeypatch):
    monkeypatch.setitem(trunks.TRUNKS, TRUNK, golden_trunk)
    return MaafNetwork.from_official(golden.state, TRUNK, heads=golden.facts["heads"]).eval()


@pytest.fixture
def texts(golden):
    vocabulary = MaafVocabulary.build(golden.facts["vocabulary_texts"])
    assert vocabulary.words == tuple(
        sorted(golden.facts["vocabulary"], key=golden.facts["vocabulary"].get)
    )
    return vocabulary.encode_batch(golden.facts["texts"])


@needs_golden
def test_the_authors_vectors_and_scores(golden, network, texts):
    with torch.no_grad():
        tokens = torch.cat(network.tokenize_images(golden.pixels[:4]), dim=1)
        words, mask = network.tokenize_texts(texts)
        images = network.embed_images(golden.pixels)
        queries = network.compose(golden.pixels[:4], texts)
        loss = scaled_cosine_loss(queries, images[4:], network.scale)
    assert torch.equal(mask, golden["eval/text_mask"].bool())
    largest = golden["eval/image_tokens"].abs().max()  # the tokens are of no unit length
    assert_near(tokens / largest, golden["eval/image_tokens"] / largest)
    assert_near(words[mask], golden["eval/text_tokens"][mask])
    assert_near(normalize(images, dim=1), golden["eval/gallery"])
    assert_near(normalize(queries, dim=1), golden["eval/query"])
    assert_near(normalize(queries, dim=1) @ normalize(images, dim=1).T, golden["eval/scores"])
    assert_near(queries, golden["eval/query_raw"])
    assert loss.item() == pytest.approx(golden.facts["loss_eval"], rel=1e-4)


@needs_golden
def test_the_authors_loss_and_gradients_in_training(golden, network, texts):
    prepare_gradients(network)
    queries = network.compose(golden.pixels.double()[:4], texts)
    loss = scaled_cosine_loss(
        queries, network.embed_images(golden.pixels.double()[4:]), network.scale
    )
    assert loss.item() == pytest.approx(golden.facts["loss_train_no_dropout"], rel=1e-4)
    loss.backward()
    assert_gradients(network, rename_official({n: n for n in golden.state}), golden)


def make(**shape) -> MaafNetwork:
    texts = {} if "text_width" in shape else {"words": 9}
    return scramble(MaafNetwork(MaafShape(width=16, hidden=5, **texts, **shape)))


TEXTS = pad([[3, 4, 5], [7]])


def count(modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_published_sizes():
    network = MaafNetwork(MaafShape(trunk="resnet50", words=9))
    assert count([network.blocks, network.norm]) == 2_369_792
    assert count(network.projections) == 1_574_912
    assert network.scale.tolist() == [4.0]


def test_the_norm_divides_by_the_unbiased_deviation():
    norm, tokens = scramble(SampleNorm(4)), draw(2, 3, 4)
    with torch.no_grad():
        ours = norm(tokens).numpy()
    x = tokens.numpy()
    unit = (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        ours, norm.gain.numpy(force=True) * unit + norm.bias.numpy(force=True), atol=1e-6
    )
    constant = torch.ones(1, 1, 4)
    assert torch.equal(norm(constant)[0, 0], norm.bias)  # no division by zero


@pytest.mark.parametrize("softmax", [True, False])
def test_attention_is_a_loop_over_heads_and_tokens(softmax):
    attention, tokens = scramble(Attention(6, 2, softmax)), draw(1, 4, 6)
    mask = torch.tensor([[True, True, False, True]])
    with torch.no_grad():
        query, key, value = (
            getattr(attention, part)(tokens)[0].view(4, 2, 3) for part in ("query", "key", "value")
        )
        rows = torch.zeros(4, 6)
        for head in range(2):
            for i in range(4):
                seen = [0, 1, 3]
                weights = torch.stack([query[i, head] @ key[j, head] / 3**0.5 for j in seen])
                weights = weights.softmax(0) if softmax else weights
                rows[i, 3 * head : 3 * head + 3] = weights @ value[seen, head]
        torch.testing.assert_close(attention(tokens, mask)[0], attention.output(rows))


@pytest.mark.parametrize("softmax", [True, False])
def test_padding_never_changes_a_query(softmax):
    network = make(trunk="tiny", softmax=softmax)
    pixels = draw(2, 3, 48, 48)
    with torch.no_grad():
        alone = network.compose(pixels[1:], pad([[7]]))
        filled = TokenBatch(torch.tensor([[7, 4, 2, 6]]), torch.tensor([1]))
        torch.testing.assert_close(network.compose(pixels, TEXTS)[1:], alone)
        torch.testing.assert_close(network.compose(pixels[1:], filled), alone)
        other = network.compose(pixels[1:], pad([[7, 4]]))
    assert (other - alone).abs().max() > 1e-3


def test_a_picture_is_the_mean_of_its_maps_means():
    network = make(trunk="tiny")
    with torch.no_grad():
        maps = network.tokenize_images(draw(2, 3, 48, 48))
        assert [m.shape[1] for m in maps] == [36, 9]  # layer3 first
        tokens = torch.cat(maps, dim=1)
        fused = network.fuse(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
        expected = (fused[:, :36].mean(1) + fused[:, 36:].mean(1)) / 2
        torch.testing.assert_close(network.embed_images(draw(2, 3, 48, 48)), expected)


def test_a_query_is_half_picture_and_half_words():
    network = make(trunk="tiny")
    pixels = draw(2, 3, 48, 48)
    with torch.no_grad():
        words, mask = network.tokenize_texts(TEXTS)
        tokens = torch.cat([*network.tokenize_images(pixels), words], dim=1)
        fused = network.fuse(tokens, torch.cat([torch.ones(2, 45, dtype=torch.bool), mask], dim=1))
        for i, length in enumerate((3, 1)):
            image = (fused[i, :36].mean(0) + fused[i, 36:45].mean(0)) / 2
            expected = (image + fused[i, 45 : 45 + length].mean(0)) / 2
            torch.testing.assert_close(network.compose(pixels, TEXTS)[i], expected)


def test_tokens_of_a_map_go_row_by_row():
    projection = scramble(MapProjection(2, 3))
    maps, norm = draw(1, 2, 2, 3), projection.norm
    norm.running_var.fill_(1e-3)  # as small as what is added to it
    with torch.no_grad():
        tokens = projection(maps)[0]
        for row in range(2):
            for column in range(3):
                raw = projection.conv.weight[:, :, 0, 0] @ maps[0, :, row, column]
                unit = (raw - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
                expected = (norm.weight * unit + norm.bias).relu()
                torch.testing.assert_close(tokens[3 * row + column], expected)


def test_the_last_map_can_be_all_there_is():
    network = make(trunk="tiny", layer3=False)
    (tokens,) = network.tokenize_images(draw(1, 3, 48, 48))
    assert tokens.shape == (1, 9, 16)


def test_frozen_features_are_one_token_each():
    network = make(image_width=5, text_width=4)
    features, texts = draw(3, 5), draw(3, 4, seed=1)
    with torch.no_grad():
        (image,), (words, mask) = network.tokenize_images(features), network.tokenize_texts(texts)
        fused = network.fuse(torch.cat([image, words], dim=1), torch.ones(3, 2, dtype=torch.bool))
        assert mask.all()
        torch.testing.assert_close(network.compose(features, texts), fused.mean(dim=1))


def test_an_empty_text_is_the_unknown_word():
    network = make(image_width=5)
    vocabulary = MaafVocabulary.build(["red dog"])
    with torch.no_grad():
        empty, unknown = (
            network.compose(draw(1, 5), vocabulary.encode_batch([text])) for text in ("", "blue")
        )
    assert torch.equal(empty, unknown)


def test_matrices_of_the_transformer_begin_within_xaviers_bounds():
    network = MaafNetwork(MaafShape(image_width=5, words=9))
    for name, parameter in network.blocks.named_parameters():
        if parameter.dim() > 1:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.95 * bound < parameter.abs().max() <= bound, name


def test_a_shape_can_be_stored_as_json():
    shape = MaafShape(trunk="tiny", words=9, layer3=False, softmax=False, blocks=1)
    assert MaafShape(**json.loads(json.dumps(asdict(shape)))) == shape


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of 8 heads, got 100"):
        MaafShape(trunk="tiny", words=9, width=100)
