"""Backbones beyond CLIP: what they give is what their libraries give, or they are not loaded."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from models import write_open_clip, write_tokenizer
from transformers import (
    AutoModel,
    AutoTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
)

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.runtime.errors import UsageError

TEXTS = ["a photo of a dog", "That cat is red , it is blue!", "car", "a red car & a b0x"]
LONG = "a red dog is a blue cat " * 9
OPEN_CLIP = {
    # the text towers of open_clip's ViT-B-16-SigLIP, ViT-L-14-CLIPA and ViT-L-14-worldwide
    "siglip": (
        {
            "context_length": 16,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "tokenizer_kwargs": {"clean": "canonicalize"},
        },
        {},
        True,
    ),
    "bert": (
        {
            "context_length": 12,
            "no_causal_mask": True,
            "pool_type": "last",
            "tokenizer_kwargs": {"strip_sep_token": True},
        },
        {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        False,
    ),
    "xlm": ({"context_length": 20, "pool_type": "eos", "eos_id": 2}, {}, False),
}


@pytest.fixture(scope="module", params=OPEN_CLIP)
def folder(request, tmp_path_factory):
    """A folder of open_clip's with a tokenizer of transformers and random weights."""
    text, vision, custom = OPEN_CLIP[request.param]
    made = tmp_path_factory.mktemp("open_clip") / request.param
    size = write_tokenizer(made, request.param)
    text = {**text, "vocab_size": size, "hf_tokenizer_name": "its/own"}
    write_open_clip(made, text_cfg=text, vision_cfg=vision, custom=custom)
    return made


@torch.no_grad()
def test_open_clips_are_what_the_library_gives(folder):
    ours = load_backbone(f"local-dir:{folder}")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels = torch.rand(3, 3, 32, 32)
    assert_same(ours.encode_images(pixels), model.encode_image(pixels))
    assert_same(ours.encode_texts(TEXTS), model.encode_text(tokenizer(TEXTS)))
    assert_same(ours.encode_texts([LONG], truncate=True), model.encode_text(tokenizer([LONG])))
    assert_prompts(ours, lambda texts: model.encode_text(tokenizer(texts)))


def assert_same(ours, theirs):
    assert ours.norm(dim=1).min() > 0.01
    assert len(ours) < 2 or (ours[0] - ours[1]).abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def assert_prompts(ours, encode):
    """A pseudo-word that is a word's own row gives the library's vector of that word's text."""
    prompts = ["a photo of *", "* , that is red", "a * of a *", "it is * that is a dog"]
    word = ours.embed_word("house")
    texts = [prompt.replace("*", "house", 1) for prompt in prompts]
    found = ours.encode_prompts(prompts, word.expand(len(prompts), -1))
    assert_same(found, encode(texts))
    both = torch.stack([word, ours.embed_word("blue")])[None]
    assert_same(ours.encode_prompts(prompts[2:3], both), encode(["a house of a blue"]))
    every = ours.encode_prompts(prompts[2:], word.expand(2, -1), every=True)
    assert_same(every, encode(["a house of a house", "it is house that is a dog"]))
    long = f"* {LONG}"
    assert_same(ours.encode_prompts([long], word[None], truncate=True), encode([f"house {LONG}"]))


HF = {
    "siglip": (SiglipConfig, SiglipModel, {}, {}),
    "xlm": (
        MetaClip2Config,
        MetaClip2Model,
        {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
        {"projection_dim": 12},
    ),
}


@pytest.fixture(scope="module", params=HF)
def hf(request, tmp_path_factory):
    """A folder of transformers with random weights."""
    config, model, marks, width = HF[request.param]
    made = tmp_path_factory.mktemp("hf") / request.param
    size = write_tokenizer(made, request.param)
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {**tower, **marks, "vocab_size": size, "max_position_embeddings": 16}
    torch.manual_seed(0)
    made_model = model(
        config(
            text_config=text,
            vision_config={**tower, "image_size": 32, "patch_size": 16},
            **width,
        )
    )
    for parameter in made_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made_model.save_pretrained(made)
    return made


@torch.no_grad()
def test_transformers_are_what_the_library_gives(hf):
    ours = load_backbone(f"hf:{hf}")
    model, tokenizer = AutoModel.from_pretrained(hf).eval(), AutoTokenizer.from_pretrained(hf)
    settings = {"max_length": 16, "padding": "max_length", "truncation": True}

    def encode(texts):
        ids = tokenizer(texts, return_tensors="pt", **settings).input_ids
        return model.get_text_features(input_ids=ids).pooler_output

    pixels = torch.rand(3, 3, 32, 32)
    theirs = model.get_image_features(pixel_values=pixels).pooler_output
    assert_same(ours.encode_images(pixels), theirs)
    assert_same(ours.encode_texts(TEXTS), encode(TEXTS))
    assert_same(ours.encode_texts([LONG], truncate=True), encode([LONG]))
    assert_prompts(ours, encode)


def test_siglips_pictures_have_its_own_mean_where_no_file_says_it(hf):
    assert load_backbone(f"hf:{hf}").image_spec.mean[0] == pytest.approx(
        0.5 if hf.name == "siglip" else 0.4814, abs=1e-3
    )


def test_a_prompt_without_a_placeholder_or_too_long_is_told_as_it_was_written(folder):
    ours = load_backbone(f"local-dir:{folder}")
    word = ours.embed_word("dog")[None]
    with pytest.raises(UsageError, match="'a photo of it' has no placeholder"):
        ours.encode_prompts(["a photo of it"], word)
    with pytest.raises(UsageError, match=r"exceeds the context of .*'\* a red dog"):
        ours.encode_prompts([f"* {LONG}"], word)


def edit_config(folder, **changes):
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model_cfg"]["text_cfg"].update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_tokenizer(folder, change):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        content = change(name, json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(content), encoding="utf-8")


def pad_left(name, content):
    return content | {"padding_side": "left"} if name == "tokenizer_config.json" else content


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda f: edit_config(f, hf_model_name="bert"), UsageError, "must be open_clip's own"),
        (
            lambda f: edit_config(f, tokenizer_mode="clips"),
            UsageError,
            "a plain one of transformers, got HFTokenizer clips",
        ),
        (lambda f: edit_tokenizer(f, pad_left), UsageError, "fill texts at their end"),
        (lambda f: (f / "tokenizer.json").unlink(), Exception, "must hold a tokenizer"),
    ],
)
def test_what_would_give_other_vectors_is_not_loaded(tmp_path, spoil, error, words):
    made = tmp_path / "clip"
    size = write_tokenizer(made, "xlm")
    text = {**OPEN_CLIP["xlm"][0], "vocab_size": size, "hf_tokenizer_name": "its/own"}
    write_open_clip(made, text_cfg=text)
    spoil(made)
    with pytest.raises(error, match=words):
        load_backbone(f"local-dir:{made}")
