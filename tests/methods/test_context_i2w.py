"""Context-I2W: its network, its two passes over a text, and pictures that are read once."""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from making import Stage
from models import write_hf, write_open_clip
from PIL import Image
from torch.nn.functional import normalize

from cirbench.benchmark.api.values import ImageRef, Query
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_images, read_pixels
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import compose
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.datasets import cirr, fashion_iq, imagenet_r
from cirbench.datasets.coco import task as coco
from cirbench.methods.context_i2w.method import ContextI2W
from cirbench.methods.context_i2w.network import ContextNetwork
from cirbench.testing import check_method

VISION, WORD, MIDDLE = 24, 16, 10
MARKER = 49405


def make_weights(vision=VISION, word=WORD, middle=MIDDLE, latents=4, layers=2, heads=2):
    """Random weights under the released names."""
    inner = 64 * heads
    shapes = {
        "to_c.weight": (vision, word),
        "W_R.weight_g": (vision, 1),
        "W_R.weight_v": (vision, vision),
        "proj": (vision, word),
        "proj_local": (vision, word),
        "VT_Extractor.latents": (latents, vision),
        "local_gate": (1,),
    }
    norms = ["ln_post", "ln_post_local", "VT_Extractor.norm"]
    for i in range(layers):
        at = f"VT_Extractor.layers.{i}"
        norms += [f"{at}.0.norm_media", f"{at}.0.norm_latents", f"{at}.1.0"]
        shapes |= {
            f"{at}.0.to_q.weight": (inner, vision),
            f"{at}.0.to_kv.weight": (2 * inner, vision),
            f"{at}.0.to_out.weight": (vision, inner),
            f"{at}.1.1.weight": (4 * vision, vision),
            f"{at}.1.3.weight": (vision, 4 * vision),
        }
    for norm in norms:
        shapes |= {f"{norm}.weight": (vision,), f"{norm}.bias": (vision,)}
    for end in ("", "_local"):
        for name, width, out in (
            (f"layers{end}.0.0", word, middle),
            (f"layers{end}.1.0", middle, middle),
            (f"fc_out{end}", middle, word),
        ):
            shapes |= {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
    draw = torch.Generator().manual_seed(0)
    return {name: 0.4 * torch.randn(*shape, generator=draw) for name, shape in shapes.items()}


class Oracle:
    """The network in numpy, a picture at a time."""

    def __init__(self, weights):
        self.w = {name: tensor.double().numpy() for name, tensor in weights.items()}

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attend(self, at, media, latents):
        asking = self.norm(f"{at}.norm_latents", latents)
        seen = np.concatenate([self.norm(f"{at}.norm_media", media), asking])
        q = asking @ self.w[f"{at}.to_q.weight"].T / 8
        k, v = np.split(seen @ self.w[f"{at}.to_kv.weight"].T, 2, axis=1)
        heads = []
        for first in range(0, q.shape[1], 64):
            part = slice(first, first + 64)
            weights = np.exp(q[:, part] @ k[:, part].T)
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
        return np.concatenate(heads, axis=1) @ self.w[f"{at}.to_out.weight"].T

    def forward(self, at, latents):
        x = self.norm(f"{at}.0", latents) @ self.w[f"{at}.1.weight"].T
        x = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return x @ self.w[f"{at}.3.weight"].T

    def perceptron(self, end, x):
        for name in (f"layers{end}.0.0", f"layers{end}.1.0"):
            x = np.maximum(x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"], 0)
        return x @ self.w[f"fc_out{end}.weight"].T + self.w[f"fc_out{end}.bias"]

    def word(self, tokens, text):
        v = self.w["W_R.weight_v"]
        rows = self.w["W_R.weight_g"] * v / np.sqrt((v**2).sum(1, keepdims=True))
        x = (tokens @ rows.T) * (self.w["to_c.weight"] @ text)
        latents = self.w["VT_Extractor.latents"]
        for i in range(sum(name.endswith("to_q.weight") for name in self.w)):
            at = f"VT_Extractor.layers.{i}"
            latents = self.attend(f"{at}.0", x[1:], latents) + latents
            latents = self.forward(f"{at}.1", latents) + latents
        local = self.norm("VT_Extractor.norm", latents).mean(0)
        return self.perceptron("", self.norm("ln_post", x[0]) @ self.w["proj"]) + np.tanh(
            self.w["local_gate"]
        ) * self.perceptron("_local", self.norm("ln_post_local", local) @ self.w["proj_local"])


@torch.no_grad()
def test_the_network_is_that_of_the_paper():
    weights = make_weights(layers=3)
    tokens, texts = torch.randn(2, 6, VISION), torch.randn(2, WORD)
    found = ContextNetwork.from_weights(weights).eval()(tokens, texts)
    oracle = Oracle(weights)
    wanted = [oracle.word(x, t) for x, t in zip(tokens.numpy(), texts.numpy(), strict=True)]
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found.numpy(), np.stack(wanted), rtol=1e-4, atol=1e-5)


def test_the_network_has_the_released_size_and_depth():
    with torch.device("meta"):
        weights = make_weights(1024, 768, 512, layers=6, heads=8)
        network = ContextNetwork(vision=1024, word=768, middle=512, inner=512, latents=4, layers=6)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    return load_backbone(f"local-dir:{write_open_clip(folder, vision_cfg={'width': VISION})}")


@pytest.fixture
def released(tmp_path):
    """A file in the released layout, from several GPUs."""
    weights = {f"module.{name}": tensor for name, tensor in make_weights().items()}
    content = {"epoch": 30, "name": "a", "state_dict": {}, "state_dict_img2text": weights}
    torch.save(content, tmp_path / "context_i2w.pt")
    return tmp_path / "context_i2w.pt"


@pytest.fixture
def method(backbone, released):
    return ContextI2W.build(backbone=backbone, checkpoint=read_checkpoint(released))


class Pictures:
    """Makes references, and counts how often each was read."""

    def __init__(self):
        self.read = Counter()

    def ref(self, i):
        def read():
            self.read[i] += 1
            pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            return buffer.getvalue()

        return ImageRef(id=f"picture-{i}", read=read)


def run(method, backbone, protocol, queries, size=64):
    embedder = Embedder(
        backbone=backbone,
        preprocess=protocol.preprocess,
        size=BatchSize(value=64),
        workers=1,
        stage=Stage(),
    )
    images = embed_images(embedder, [query.reference for query in queries])
    texts = TextFeatures(backbone=backbone, truncate=protocol.overlong_text == "truncate")
    options = {"size": BatchSize(value=size), "workers": 1, "stage": Stage()}
    return compose(method, queries, protocol, images, texts, **options)


def encode_ids(backbone, rows, word=None):
    """Texts of token ids by open_clip itself, the marker's embedding replaced by a word."""
    model = backbone.model
    x = model.token_embedding(rows).clone()
    if word is not None:
        x[rows == MARKER] = word
    x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
    at_end = x[torch.arange(len(rows)), (rows == 49407).int().argmax(1)]
    return model.ln_final(at_end) @ model.text_projection


def tokenize_as_released(backbone, prompt):
    """Ids with the marker in the star's place, cut to 77 as the released tokenizer cuts them."""
    ids = backbone.tokenize([prompt])[0]
    ids[ids.index(backbone.tokenize(["*"])[0][1])] = MARKER
    if len(ids) > 77:
        ids = [*ids[:76], 49407]
    return torch.tensor([[*ids, *[0] * (77 - len(ids))]])


@torch.no_grad()
@pytest.mark.parametrize(
    ("protocol", "group", "fields", "prompt"),
    [
        (imagenet_r.CONTEXT_I2W, "toy", {}, "a toy of *"),
        (cirr.CONTEXT_I2W, "all", {"caption": "Two * dogs."}, "a photo of * , Two * dogs."),
        (
            fashion_iq.CONTEXT_I2W,
            "dress",
            fashion_iq.make_caption_fields(["is Longer. ", "more red"]),
            "a photo of * , more red and is Longer. ",
        ),
        (
            coco.CONTEXT_I2W,
            "all",
            {"query_class": "dog", "others": "cat and car"},
            "a photo of * and dog and cat and car",
        ),
        (
            cirr.CONTEXT_I2W,
            "all",
            {"caption": "red " * 90},
            "a photo of * , " + "red " * 90,
        ),
    ],
    ids=["imagenet-r", "cirr", "fashion-iq", "coco", "cut"],
)
def test_a_query_is_its_prompt_with_a_word_that_its_prompt_chose(
    method, backbone, protocol, group, fields, prompt
):
    query = Query(id="q", reference=Pictures().ref(0), positives=(), group=group, fields=fields)
    found = run(method, backbone, protocol, [query])
    seen = []
    handle = backbone.model.visual.transformer.register_forward_hook(lambda *a: seen.append(a[2]))
    backbone.model.visual(read_pixels([query.reference], "clip", backbone, 1))
    handle.remove()
    ids = tokenize_as_released(backbone, prompt)
    asked = encode_ids(backbone, ids)[0]
    word = Oracle(make_weights()).word(seen[0][0].numpy(), asked.numpy())
    wanted = normalize(encode_ids(backbone, ids, torch.from_numpy(word).float()), dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_text_alone_has_the_markers_row_where_the_authors_leave_it(backbone):
    fields = fashion_iq.make_caption_fields(["is longer", "more red"])
    text = fashion_iq.CONTEXT_I2W.text("text", "dress", fields)
    assert backbone.tokenize([text])[0][4] == MARKER
    assert "*" not in text


def test_each_picture_is_read_once_for_all_its_queries_and_the_order_stays(method, backbone):
    pictures = Pictures()
    queries = [
        Query(id=f"{domain}-{i}", reference=pictures.ref(i), positives=(), group=domain)
        for domain in imagenet_r.DOMAINS
        for i in range(3)
    ]
    found = run(method, backbone, imagenet_r.CONTEXT_I2W, queries, size=4)
    assert pictures.read == {0: 2, 1: 2, 2: 2}  # once for its features, once for its tokens
    alone = torch.cat([run(method, backbone, imagenet_r.CONTEXT_I2W, [q]) for q in queries])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert (found[0] - found[3]).abs().max() > 1e-3


@torch.no_grad()
def test_both_libraries_give_the_tokens_before_the_last_norm(tmp_path, backbone):
    other = load_backbone(f"hf:{write_hf(tmp_path / 'hf')}")
    pixels = torch.rand(2, 3, 32, 32)
    for tower, finish in (
        (backbone, lambda x: backbone.model.visual.ln_post(x) @ backbone.model.visual.proj),
        (
            other,
            lambda x: other.model.visual_projection(other.model.vision_model.post_layernorm(x)),
        ),
    ):
        tokens = tower.encode_image_tokens(pixels)
        assert tokens.shape == (2, 5, tower.vision_width)
        torch.testing.assert_close(
            finish(tokens[:, 0]), tower.encode_images(pixels), atol=1e-6, rtol=0
        )


def edit(**changes):
    def change(content):
        return {**content, "state_dict_img2text": {**content["state_dict_img2text"], **changes}}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: {**c, "state_dict_img2text": make_weights(vision=32)},
            "tokens of pictures of width 32; those of local-dir:clip have 24",
        ),
        (
            lambda c: {**c, "state_dict_img2text": make_weights(word=8)},
            "embeddings of width 8 to words of width 8; local-dir:clip has 16 and 16",
        ),
        (lambda c: {"Phi": {"0.weight": torch.ones(2, 2)}}, "Context-I2W network .*keys are Phi"),
        (edit(**{"W_R.weight_g": torch.ones(3, 1)}), r"W_R.weight_g \(3, 1\), not \(24, 1\)"),
        (edit(extra=torch.ones(1)), "unknown: extra"),
        (edit(local_gate=torch.tensor([torch.nan])), "not finite: local_gate"),
    ],
)
def test_weights_that_do_not_fit_are_one_error(released, backbone, change, words):
    content = torch.load(released)
    content["state_dict_img2text"] = make_weights()
    torch.save(change(content), released)
    with pytest.raises(CorruptData, match=words):
        ContextI2W.build(backbone=backbone, checkpoint=read_checkpoint(released))


@pytest.mark.parametrize("name", ["emoji-clip", "fake", "torchvision:resnet18/random"])
def test_towers_without_tokens_are_refused_before_any_picture(name, released):
    with pytest.raises(UsageError, match="must have a vision transformer"):
        ContextI2W.build(backbone=load_backbone(name), checkpoint=read_checkpoint(released))


def test_a_vocabulary_without_the_marker_is_refused(released, backbone):
    other = replace(backbone)
    other.tokenize = lambda texts: [[1, *([2, 3] if text else []), 4] for text in texts]
    with pytest.raises(UsageError, match="'jekyll' must be one token of local-dir:clip, it is 2"):
        ContextI2W.build(backbone=other, checkpoint=read_checkpoint(released))


def test_it_keeps_the_contract(released, backbone, tmp_path):
    folder = write_open_clip(tmp_path / "clip", vision_cfg={"width": VISION})
    check_method("context-i2w", backbone=f"local-dir:{folder}", checkpoint=released)
