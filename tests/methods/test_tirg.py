"""TIRG's network, against the authors' numbers and by itself."""

from __future__ import annotations

import json
from dataclasses import asdict

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
from torch.nn import functional
from torch.nn.functional import normalize

from cirbench.benchmark.backbones import trunks
from cirbench.methods.supervised.losses import scaled_cosine_loss, soft_triplet_loss
from cirbench.methods.supervised.vocabulary import TirgVocabulary, TokenBatch, pad
from cirbench.methods.tirg.method import TirgNetwork, TirgShape, rename_official

FILES = ("dev_tirg", "dev_tirg_softtriplet")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setitem(trunks.TRUNKS, TRUNK, golden_trunk)

    def read(name):
        golden = read_golden(name)
        vocabulary = TirgVocabulary.build(golden.facts["vocabulary_texts"])
        network = TirgNetwork.from_official(golden.state, TRUNK).eval()
        return golden, network, vocabulary.encode_batch(golden.facts["texts"])

    return read


@needs_golden
@pytest.mark.parametrize("name", FILES)
def test_the_authors_vectors_and_scores(load, name):
    golden, network, texts = load(name)
    with torch.no_grad():
        images, words = network.embed_images(golden.pixels), network.embed_texts(texts)
        queries = network.compose(golden.pixels[:4], texts)
        loss = scaled_cosine_loss(queries, images[4:], network.scale)
    for ours, theirs in (
        (normalize(images, dim=1), golden["eval/gallery"]),
        (normalize(words, dim=1), normalize(golden["eval/text_feature"], dim=1)),
        (normalize(queries, dim=1), golden["eval/query"]),
        (normalize(queries, dim=1) @ normalize(images, dim=1).T, golden["eval/scores"]),
    ):
        assert_near(ours, theirs)
    assert loss.item() == pytest.approx(golden.facts["loss_eval"], rel=1e-4)


@needs_golden
def test_the_authors_loss_and_gradients_in_training(load):
    golden, network, texts = load("dev_tirg")
    prepare_gradients(network)
    queries = network.compose(golden.pixels.double()[:4], texts)
    loss = scaled_cosine_loss(
        queries, network.embed_images(golden.pixels.double()[4:]), network.scale
    )
    assert loss.item() == pytest.approx(golden.facts["loss_train_no_dropout"], rel=1e-4)
    loss.backward()
    assert_gradients(network, rename_official({n: n for n in golden.state}), golden)


@needs_golden
def test_the_authors_soft_triplets_have_half_of_our_gradient(load):
    golden, network, texts = load("dev_tirg_softtriplet")
    prepare_gradients(network)
    queries = network.compose(golden.pixels.double()[:4], texts)
    targets = network.embed_images(golden.pixels.double()[4:])
    stack = network.scale * normalize(torch.cat([queries, targets]), dim=1)
    stack.retain_grad()
    loss = soft_triplet_loss(stack, torch.tensor(golden.facts["triplets"]))
    assert loss.item() == pytest.approx(golden.facts["loss_train_no_dropout"], rel=1e-4)
    loss.backward()
    norm = stack.grad.norm().item()
    assert norm == pytest.approx(golden.facts["grad_wrt_stack_true"], rel=1e-4)
    assert_gradients(network, rename_official({n: n for n in golden.state}), golden, factor=0.5)


def make(**shape) -> TirgNetwork:
    texts = {} if "text_width" in shape else {"words": 9}
    return scramble(TirgNetwork(TirgShape(width=6, **texts, **shape)))


TEXTS = pad([[3, 4, 5], [7]])


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_published_sizes():
    network = TirgNetwork(TirgShape(trunk="resnet18", words=29))
    assert count(network.fusion) == 2_103_300 - 2  # two weights there have no use
    assert round(count(network) / 1e6, 2) == 15.92
    assert network.fusion.weights.tolist() == [1.0, 10.0]
    assert network.scale.tolist() == [4.0]


def test_a_query_is_the_papers_formula():
    network = make(image_width=5, text_width=4)
    features, texts = draw(3, 5), draw(3, 4, seed=1)
    weights = dict(network.state_dict())

    def apply(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        unit = (x - mean) / (var + 1e-5).sqrt()
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    image, text = apply("image_projection", features), apply("text", texts)
    both = torch.cat([image, text], dim=1)
    gate = apply("fusion.gate.2", norm("fusion.gate.0", both).relu()).sigmoid()
    inner = apply("fusion.residual.2", norm("fusion.residual.0", both).relu()).relu()
    a = weights["fusion.weights"]
    expected = a[0] * gate * image + a[1] * apply("fusion.residual.4", inner)
    with torch.no_grad():
        torch.testing.assert_close(network.compose(features, texts), expected)
        torch.testing.assert_close(network.embed_images(features), image)


def official_last_conv() -> dict[str, torch.Tensor]:
    """A last-conv network under the authors' names, with the words and width of `make`."""
    network = make(trunk="tiny", fusion="last-conv")
    ours = network.state_dict()
    theirs = {"a": torch.tensor([0.5, 2.0, 7.0, 7.0]), "normalization_layer.norm_s": ours["scale"]}
    for name, tensor in ours.items():
        for begins, official in (
            ("trunk.", "img_model."),
            ("image_projection.", "img_model.fc.0."),
            ("text.embedding.", "text_model.embedding_layer."),
            ("text.lstm.", "text_model.lstm."),
            ("text.output.", "text_model.fc_output.1."),
            ("fusion.residual.", "mod2d."),
            ("fusion.gate.", "mod2d_gate."),
        ):
            if name.startswith(begins):
                theirs[official + name.removeprefix(begins)] = tensor
    return theirs


def test_last_conv_changes_the_map_before_it_is_pooled():
    state = official_last_conv()
    network = TirgNetwork.from_official(state, "tiny").eval()
    assert network.shape.fusion == "last-conv"
    pixels = draw(2, 3, 48, 48)

    def stack(name, x):
        x = functional.batch_norm(
            x,
            *(state[f"{name}.0.{part}"] for part in ("running_mean", "running_var")),
            *(state[f"{name}.0.{part}"] for part in ("weight", "bias")),
        )
        for layer in (1, 3):
            x = functional.conv2d(
                x.relu() if layer == 3 else x,
                state[f"{name}.{layer}.weight"],
                state[f"{name}.{layer}.bias"],
                padding=1,
            )
        return x

    with torch.no_grad():
        images, words = network.trunk(pixels).layer4, network.embed_texts(TEXTS)
        both = torch.cat([images, words[:, :, None, None].expand(-1, -1, 3, 3)], dim=1)
        changed = 0.5 * stack("mod2d_gate", both).sigmoid() * images + 2.0 * stack("mod2d", both)
        expected = network.image_projection(changed.mean(dim=(2, 3)))
        torch.testing.assert_close(network.compose(pixels, TEXTS), expected)


def test_concat_is_a_network_over_both_in_the_authors_order():
    network = make(image_width=5, text_width=4, fusion="concat")
    names = [n for n in network.state_dict() if n.startswith("fusion.layers.")]
    theirs = {n.replace("fusion.layers.", "composer.m."): n for n in names}
    assert list(rename_official(dict.fromkeys(theirs, 0))) == names
    features, texts = draw(3, 5), draw(3, 4, seed=1)
    with torch.no_grad():
        both = torch.cat([network.embed_images(features), network.embed_texts(texts)], dim=1)
        expected = network.fusion.layers(both)
        torch.testing.assert_close(network.compose(features, texts), expected)


def test_padding_never_changes_a_text():
    network = make(image_width=5)
    with torch.no_grad():
        alone = network.embed_texts(pad([[7]]))
        filled = network.embed_texts(TokenBatch(torch.tensor([[7, 4, 2]]), torch.tensor([1])))
        torch.testing.assert_close(network.embed_texts(TEXTS)[1:], alone)
        torch.testing.assert_close(filled, alone)


def test_a_text_is_read_to_its_last_word():
    network = make(image_width=5)
    with torch.no_grad():
        vectors = network.embed_texts(pad([[3, 4, 5], [3, 4, 6], [8, 4, 5]]))
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3
    assert (vectors[0] - vectors[2]).abs().max() > 1e-3


def test_an_empty_text_is_the_unknown_word():
    network = make(image_width=5)
    vocabulary = TirgVocabulary.build(["red dog"])
    with torch.no_grad():
        empty, unknown = (network.embed_texts(vocabulary.encode_batch([t])) for t in ("", "blue"))
    assert torch.equal(empty, unknown)


def test_a_shape_can_be_stored_as_json():
    shape = TirgShape(trunk="tiny", words=9, fusion="last-conv")
    assert TirgShape(**json.loads(json.dumps(asdict(shape)))) == shape


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ({"words": 9}, "either a trunk or"),
        ({"trunk": "tiny", "image_width": 5, "words": 9}, "either a trunk or"),
        ({"trunk": "tiny"}, "either words or"),
        ({"trunk": "tiny", "words": 9, "text_width": 4}, "either words or"),
        ({"trunk": "tiny", "words": 9, "fusion": "sum"}, "vector, last-conv, concat, got 'sum'"),
        ({"image_width": 5, "words": 9, "fusion": "last-conv"}, "use vector"),
    ],
)
def test_a_shape_that_makes_no_network_is_refused(shape, fault):
    with pytest.raises(ValueError, match=fault):
        TirgShape(**shape)


def test_an_unknown_name_of_the_authors_is_refused():
    with pytest.raises(ValueError, match=r"attention\.weight must be, or begin with, one of a, "):
        rename_official({"attention.weight": 0})
