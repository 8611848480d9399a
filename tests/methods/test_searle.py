"""SEARLE and LinCIR: the network of the released checkpoints, and their prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cirbench.benchmark.api.values import ImageRef, Query
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import QueryBatch
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.datasets import cirr, fashion_iq, imagenet_r
from cirbench.methods.lincir.method import LinCIR
from cirbench.methods.pic2word.method import MappingNetwork, Pic2Word
from cirbench.methods.searle.method import Phi, Searle


@pytest.fixture
def released(tmp_path, fake):
    """A file in the released layout, and its network."""
    phi = Phi(fake.embedding_width, 7, fake.token_width).eval()
    weights = {f"layers.{name}": tensor for name, tensor in phi.state_dict().items()}
    torch.save({"epoch": 99, "Phi": weights}, tmp_path / "SEARLE.pt")
    return tmp_path / "SEARLE.pt", phi


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [
        ((512, 2048, 512), 6_296_064),
        ((768, 3072, 768), 14_162_688),
        ((1024, 4096, 1024), 25_175_040),
    ],
)
def test_the_network_has_the_released_size(widths, parameters):
    assert sum(p.numel() for p in Phi(*widths).parameters()) == parameters


def test_the_forward_pass_is_linear_gelu_twice_and_linear(released, fake):
    _, phi = released
    v = np.random.default_rng(0).normal(size=(2, fake.embedding_width))
    x = v
    for layer in (0, 3, 6):
        weight, bias = (phi[layer].__getattr__(n).detach().numpy() for n in ("weight", "bias"))
        x = x @ weight.T + bias
        if layer != 6:
            x = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    with torch.no_grad():
        assert np.allclose(phi(torch.tensor(v).float()).numpy(), x, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "trained_on"), [(Searle, "ImageNet-1k test"), (LinCIR, "CC3M captions")]
)
def test_the_released_layout_loads(released, fake, method, trained_on):
    path, phi = released
    loaded = method.build(backbone=fake, checkpoint=read_checkpoint(path))
    v = torch.randn(3, fake.embedding_width)
    with torch.no_grad():
        assert torch.equal(loaded.phi(v), phi(v))
    assert loaded.trained_on == trained_on


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Combiner": {"output_layer.weight": torch.ones(2, 2)}}, "its keys are Combiner"),
        ({"Phi": Phi(768, 9, 768).state_dict()}, r"width 768; fake has 32 and 24"),
    ],
)
def test_what_is_not_for_it_is_refused(tmp_path, fake, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CorruptData, match=words):
        Searle.build(backbone=fake, checkpoint=read_checkpoint(tmp_path / "a.pt"))


def composed(method, fake, protocol, fields):
    v = torch.randn(1, fake.embedding_width, generator=torch.Generator().manual_seed(0))
    query = Query(id="q", reference=ImageRef(id="r", read=bytes), positives=(), fields=fields)
    texts = TextFeatures(backbone=fake, truncate=False)
    batch = QueryBatch(protocol=protocol, queries=[query], reference_features=v, encoder=texts)
    with torch.no_grad():
        return method.compose(batch), method.phi(v)


def test_two_captions_are_composed_in_both_orders_and_averaged(released, fake):
    method = Searle.build(backbone=fake, checkpoint=read_checkpoint(released[0]))
    fields = fashion_iq.make_caption_fields(["is Longer. ", "?more red"])
    found, words = composed(method, fake, fashion_iq.SEARLE, fields)
    prompts = [
        "a photo of * that is Longer and more red",
        "a photo of * that more red and is Longer",
    ]
    each = [normalize(fake.encode_prompts([prompt], words), dim=-1) for prompt in prompts]
    assert torch.allclose(found, normalize(each[0] + each[1], dim=-1), atol=1e-6)


def test_one_caption_is_composed_once_and_raw(released, fake):
    method = LinCIR.build(backbone=fake, checkpoint=read_checkpoint(released[0]))
    found, words = composed(method, fake, cirr.LINCIR, {"caption": "Two  dogs."})
    wanted = normalize(fake.encode_prompts(["a photo of * that Two  dogs."], words), dim=-1)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_the_protocols_preprocess_as_their_authors_do():
    for task in (fashion_iq, cirr):
        assert (task.SEARLE.preprocess, task.LINCIR.preprocess) == ("targetpad", "clip-hf")
        assert task.SEARLE.preprocess_of_references == "targetpad"
        assert task.LINCIR.preprocess_of_references == "clip-hf-float16"
    assert not fashion_iq.SEARLE.reference_removed
    assert cirr.SEARLE.reference_removed


@pytest.fixture
def mapped(fake):
    """Pic2Word with weights of no training."""
    return Pic2Word(MappingNetwork(fake.embedding_width, fake.token_width), "nothing")


@pytest.mark.parametrize(
    ("protocol", "fields", "prompts"),
    [
        (cirr.LINCIR, {"caption": "Two dogs."}, ["a photo of * that Two dogs."]),
        (
            fashion_iq.LINCIR,
            fashion_iq.make_caption_fields(["is Longer. ", "?more red"]),
            [
                "a photo of * that is Longer and more red",
                "a photo of * that more red and is Longer",
            ],
        ),
        (cirr.PIC2WORD, {"caption": "Two dogs."}, ["a photo of * , Two dogs."]),
        (
            fashion_iq.SEARLE,
            fashion_iq.make_caption_fields(["is Longer. ", "?more red"]),
            ["a photo of * , ?more red and is Longer. "],
        ),
    ],
)
def test_pic2word_has_the_prompt_of_whoever_wrote_the_protocol(
    fake, mapped, protocol, fields, prompts
):
    mapped.phi = mapped.mapper
    found, words = composed(mapped, fake, protocol, fields)
    each = [normalize(fake.encode_prompts([prompt], words), dim=-1) for prompt in prompts]
    assert torch.allclose(found, normalize(sum(each), dim=-1), atol=1e-6)


def test_where_only_a_domain_is_named_searle_has_the_prompt_of_the_others(released, fake):
    method = Searle.build(backbone=fake, checkpoint=read_checkpoint(released[0]))
    found, words = composed(method, fake, imagenet_r.PROTOCOL, {"domain": "toy"})
    wanted = normalize(fake.encode_prompts(["a toy of *"], words), dim=-1)
    assert torch.allclose(found, wanted, atol=1e-6)
