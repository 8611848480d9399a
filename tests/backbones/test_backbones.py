"""The libraries agree with each other, and a pseudo-word is a word."""

from __future__ import annotations

import logging

import open_clip
import pytest
import torch
from models import write_hf, write_open_clip
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from cirbench.benchmark.backbones import open_clip as open_clip_backbones
from cirbench.benchmark.backbones import transformers_clip
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.text import PRECISIONS
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError

WIDTH, LAYERS, HEADS, EMBEDDING, SIZE, PATCH = 64, 2, 1, 32, 32, 16
TEXTS = ["a photo of a dog", "a cartoon of two cats , sleeping"]


class WordTokenizer:
    """open_clip's byte-pair tokenizer under the names that transformers uses."""

    pad_token_id = 49407

    def __init__(self) -> None:
        self.inner = open_clip.get_tokenizer("ViT-B-32")

    def get_vocab(self):
        return self.inner.encoder

    def __call__(self, texts):
        start, end = self.inner.sot_token_id, self.inner.eot_token_id
        return {"input_ids": [[start, *self.inner.encode(text), end] for text in texts]}


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=EMBEDDING,
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=LAYERS, width=WIDTH, head_width=WIDTH, patch_size=PATCH, image_size=SIZE
        ),
        text_cfg=open_clip.CLIPTextCfg(width=WIDTH, heads=HEADS, layers=LAYERS),
        quick_gelu=True,
    )
    return wrapped("small", model)


def wrapped(name, model):
    """A model of open_clip's as a backbone, with the settings that its factory gives it."""
    open_clip.set_model_preprocess_cfg(
        model, {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    )
    return open_clip_backbones.from_model(name, model, open_clip.get_tokenizer("ViT-B-32"))


@pytest.fixture(scope="module")
def theirs(ours):
    config = CLIPConfig(
        text_config={
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "vocab_size": 49408,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
            "hidden_act": "quick_gelu",
        },
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 1,
            "image_size": SIZE,
            "patch_size": PATCH,
            "hidden_act": "quick_gelu",
        },
        projection_dim=EMBEDDING,
    )
    model = CLIPModel(config)
    missing, unexpected = model.load_state_dict(
        as_transformers(ours.model.state_dict()), strict=False
    )
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    return transformers_clip.from_model("small", model, WordTokenizer())


def as_transformers(weights):
    """open_clip's names and shapes → transformers'."""
    converted = {
        "logit_scale": weights["logit_scale"],
        "text_projection.weight": weights["text_projection"].T,
        "visual_projection.weight": weights["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
        "vision_model.embeddings.class_embedding": weights["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": weights["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": weights["visual.positional_embedding"],
    }
    for end in ("weight", "bias"):
        converted |= {
            f"text_model.final_layer_norm.{end}": weights[f"ln_final.{end}"],
            f"vision_model.pre_layrnorm.{end}": weights[f"visual.ln_pre.{end}"],
            f"vision_model.post_layernorm.{end}": weights[f"visual.ln_post.{end}"],
        }
        for theirs, block in (
            ("text_model", "transformer"),
            ("vision_model", "visual.transformer"),
        ):
            for i in range(LAYERS):
                source, target = f"{block}.resblocks.{i}", f"{theirs}.encoder.layers.{i}"
                joint = weights[f"{source}.attn.in_proj_{end}"].chunk(3)
                for part, tensor in zip("qkv", joint, strict=True):
                    converted[f"{target}.self_attn.{part}_proj.{end}"] = tensor
                for a, b in (
                    ("attn.out_proj", "self_attn.out_proj"),
                    ("ln_1", "layer_norm1"),
                    ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"),
                    ("mlp.c_proj", "mlp.fc2"),
                ):
                    converted[f"{target}.{b}.{end}"] = weights[f"{source}.{a}.{end}"]
    return converted


@torch.no_grad()
def test_open_clip_and_transformers_agree_on_the_same_weights(ours, theirs):
    pixels = torch.randn(3, 3, SIZE, SIZE)
    words = torch.randn(2, WIDTH)
    prompts = ["a photo of *", "a cartoon of * , asleep"]
    for a, b in (
        (ours.encode_images(pixels), theirs.encode_images(pixels)),
        (ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS)),
        (ours.encode_prompts(prompts, words), theirs.encode_prompts(prompts, words)),
    ):
        assert a.norm(dim=1).min() > 0.1
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert (ours.embedding_width, ours.token_width) == (theirs.embedding_width, theirs.token_width)


@pytest.fixture
def backbone_of(ours, theirs):
    return lambda name: {"open_clip": ours, "transformers": theirs}.get(name) or load_backbone(name)


@pytest.fixture(params=["open_clip", "transformers", "fake", "emoji-clip"])
def backbone(request, backbone_of):
    return backbone_of(request.param)


@torch.no_grad()
def test_a_pseudo_word_that_is_a_words_embedding_gives_that_words_sentence(backbone):
    dog = backbone.tokenize(["dog"])[0][1]
    word = backbone.token_embedding.weight[dog].float().unsqueeze(0)
    for prompt in ("a photo of *", "* , asleep", "a * is not a *"):
        sentence = prompt.replace("*", "dog", 1)
        assert torch.equal(
            backbone.encode_prompts([prompt], word), backbone.encode_texts([sentence])
        )
    assert not torch.equal(
        backbone.encode_prompts(["a *"], word + 1), backbone.encode_texts(["a dog"])
    )


@torch.no_grad()
def test_each_row_has_its_own_placeholder_position(backbone):
    words = torch.randn(2, backbone.token_width)
    prompts = ["a photo of *", "* in the snow"]
    together = backbone.encode_prompts(prompts, words)
    apart = [backbone.encode_prompts([p], w[None]) for p, w in zip(prompts, words, strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_as_many_placeholders_are_replaced_as_there_are_words_in_their_order(backbone):
    dog, cat = (backbone.tokenize([name])[0][1] for name in ("dog", "cat"))
    words = backbone.token_embedding.weight[[dog, cat]].float().unsqueeze(0)
    for prompt, sentence in (
        ("a * beside a *", "a dog beside a cat"),
        ("* * , and *", "dog cat , and *"),
    ):
        assert torch.equal(
            backbone.encode_prompts([prompt], words), backbone.encode_texts([sentence])
        )
    two = torch.randn(2, 1, backbone.token_width)
    prompts = ["* asleep", "a photo of *"]
    assert torch.equal(
        backbone.encode_prompts(prompts, two), backbone.encode_prompts(prompts, two.squeeze(1))
    )


@torch.no_grad()
def test_one_word_takes_the_place_of_every_placeholder_where_that_is_asked(backbone):
    words = torch.randn(3, backbone.token_width)
    prompts = ["a * beside a *", "a photo of *", "a photo"]
    found = backbone.encode_prompts(prompts, words, every=True)
    twice = backbone.encode_prompts(prompts[:1], words[:1, None].expand(1, 2, -1))
    once = backbone.encode_prompts(prompts[1:2], words[1:2])
    wanted = torch.cat([twice, once, backbone.encode_texts(prompts[2:])])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_fewer_placeholders_than_words_are_refused(backbone):
    words = torch.zeros(2, 2, backbone.token_width)
    with pytest.raises(UsageError, match=r"'a photo of \*' has 1 of 2 placeholders"):
        backbone.encode_prompts(["* and *", "a photo of *"], words)


def test_gradients_reach_the_pseudo_word_and_no_weight(backbone):
    words = torch.randn(2, backbone.token_width, requires_grad=True)
    backbone.encode_prompts(["a photo of *"] * 2, words).square().sum().backward()
    assert words.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("prompt", ["a photo of it", "a photo of *, red"])
def test_a_prompt_without_its_placeholder_is_refused(backbone, prompt):
    with pytest.raises(UsageError, match="placeholder"):
        backbone.encode_prompts([prompt], torch.zeros(1, backbone.token_width))


@torch.no_grad()
def test_a_text_beyond_the_context_is_refused_or_cut_as_asked(backbone):
    long = "word " * 100
    with pytest.raises(UsageError, match="25 would be cut"):
        backbone.encode_texts([long])
    cut = backbone.encode_texts([long], truncate=True)
    assert torch.equal(cut, backbone.encode_texts(["word " * 75]))


LENGTHS = ["dog", "a red dog", "word " * 75, "two cats , sleeping " * 4, "cat"]


@pytest.fixture(params=["open_clip", "its other layout", "transformers", "emoji-clip"])
def causal(request):
    if request.param != "its other layout":
        return request.getfixturevalue("backbone_of")(request.param)
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(
        EMBEDDING,
        open_clip.CLIPVisionCfg(layers=1, width=WIDTH, patch_size=PATCH, image_size=SIZE),
        open_clip.CLIPTextCfg(width=WIDTH, heads=HEADS, layers=LAYERS),
    )
    return wrapped("other", model)


@torch.no_grad()
def test_a_causal_tower_gives_the_same_without_a_texts_padding(causal, monkeypatch):
    torch.manual_seed(0)
    words = torch.randn(len(LENGTHS), causal.token_width)
    prompts = [f"* , {text}" for text in LENGTHS]

    def encode():
        return causal.encode_texts(LENGTHS), causal.encode_prompts(prompts, words, truncate=True)

    seen, tower = [], causal.text_tower
    monkeypatch.setattr(causal, "text_tower", lambda ids: (seen.append(ids.shape), tower(ids))[1])
    found = encode()
    assert seen == [(3, 8), (1, 77), (1, 24)] * 2
    monkeypatch.setattr(causal, "causal", False)
    for short, whole in zip(found, encode(), strict=True):
        units = normalize(short, dim=-1), normalize(whole, dim=-1)
        torch.testing.assert_close(*units, atol=1e-6, rtol=0)
    assert seen[6:] == [(5, 77)] * 2


def test_no_texts_have_no_embeddings(backbone):
    assert backbone.encode_texts([]).shape == (0, backbone.embedding_width)


@torch.no_grad()
def test_a_tower_that_looks_at_later_tokens_gets_all_of_its_context(tmp_path):
    folder = write_open_clip(tmp_path / "both ways", text_cfg={"no_causal_mask": True})
    backbone, seen = load_backbone(f"local-dir:{folder}"), []
    tower = backbone.text_tower
    backbone.text_tower = lambda ids: (seen.append(ids.shape), tower(ids))[1]
    backbone.encode_texts(LENGTHS)
    assert seen == [(5, 77)]


def test_openai_weights_get_quick_gelu():
    assert open_clip_backbones.needs_quick_gelu("ViT-L-14", "openai")
    assert open_clip_backbones.needs_quick_gelu("RN50x4", "openai")
    assert not open_clip_backbones.needs_quick_gelu("ViT-B-32", "laion2b_s34b_b79k")


def test_the_fingerprint_is_of_the_weights(ours):
    before = ours.weights_sha256
    model = ours.model
    with torch.no_grad():
        model.ln_final.bias[0] += 1
    try:
        again = open_clip_backbones.from_model("small", model, open_clip.get_tokenizer("ViT-B-32"))
    finally:
        with torch.no_grad():
            model.ln_final.bias[0] -= 1
    assert again.weights_sha256 != before


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", "fp16", "amp", "amp_bf16"])
def test_half_precision_towers_give_float32(precision):
    full, half = load_backbone("emoji-clip"), load_backbone("emoji-clip", precision=precision)
    a, b = full.encode_texts(TEXTS), half.encode_texts(TEXTS)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert torch.cosine_similarity(a, b).min() > 0.99
    assert half.weights_sha256 == full.weights_sha256
    kept = torch.float32 if "amp" in precision else a.to(PRECISIONS[precision].weights).dtype
    assert {p.dtype for p in half.parameters()} == {kept}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("ViT-L-41/openai", UsageError, "no architecture"),
        ("ViT-L-14/openia", UsageError, "openai"),
        ("emoji-clap", UsageError, "emoji-clip"),
        ("local-dir:/nowhere", MissingData, "/nowhere"),
        ("hf:/nowhere", MissingData, "/nowhere"),
    ],
)
def test_a_backbone_that_is_not_there_is_one_clear_error(name, error, words):
    with pytest.raises(error, match=words):
        load_backbone(name)


def test_a_transformers_clip_loads_from_a_folder(tmp_path):
    loaded = load_backbone(f"hf:{write_hf(tmp_path / 'hf')}")
    assert loaded.weights_sha256 == load_backbone(f"hf:{tmp_path / 'hf'}").weights_sha256
    dog = loaded.tokenize(["dog"])[0][1]
    word = loaded.token_embedding.weight[dog].unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded.encode_prompts(["a *"], word), loaded.encode_texts(["a dog"]))


def test_weights_that_can_not_be_fetched_are_missing_data(monkeypatch, capfd):
    def offline(*_args, **_kwargs):
        logging.warning("retrying")
        raise RuntimeError("Failed to download weights for tag 'openai'")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(MissingData, match="HF_HOME"):
        load_backbone("ViT-B-32/openai")
    assert "retrying" not in capfd.readouterr().err


def test_a_damaged_model_folder_is_corrupt(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptData):
        load_backbone(f"local-dir:{tmp_path}")
