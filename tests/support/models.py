"""Small CLIPs in the files of the libraries, for tests that spoil them."""

from __future__ import annotations

import json
from functools import cache

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

WIDTH, SIZE = 16, 32


@cache
def _hf_model():
    torch.manual_seed(0)
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
    return CLIPModel(
        CLIPConfig(
            text_config={**tower, **text, "pad_token_id": 49407},
            vision_config={**tower, "image_size": SIZE, "patch_size": 16},
            projection_dim=WIDTH,
        )
    )


def write_hf(folder):
    """A transformers CLIP with random weights and OpenAI's vocabulary."""
    folder.mkdir(parents=True)
    _hf_model().config.save_pretrained(folder)
    save_file(_hf_model().state_dict(), folder / "model.safetensors", {"format": "pt"})
    inner = open_clip.get_tokenizer("ViT-B-32")
    encoder = {
        "<|startoftext|>"
        if k == "<start_of_text>"
        else "<|endoftext|>"
        if k == "<end_of_text>"
        else k: v
        for k, v in inner.encoder.items()
    }
    merges = "\n".join(" ".join(pair) for pair in inner.bpe_ranks)
    (folder / "vocab.json").write_text(json.dumps(encoder), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return folder


WORDS = (
    *("a", "photo", "of", "dog", "cat", "car", "house", "red", "blue", "that", "is", "it"),
    *("two", "cars", "night", "amp", "2", "x", "beside"),
)


def write_tokenizer(folder, kind):
    """A small tokenizer of transformers, of the kind that SigLIP, CLIPA or MetaCLIP 2 has."""
    marks = {
        "siglip": ["<pad>", "</s>", "<unk>"],
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "*", ","],
        "xlm": ["<s>", "<pad>", "</s>", "<unk>", "*", ","],
    }[kind]
    vocabulary = {word: i for i, word in enumerate((*marks, *WORDS))}
    if kind == "bert":
        own = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
        own.normalizer, own.pre_tokenizer = Lowercase(), BertPreTokenizer()
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        frame = "[CLS] $A [SEP]"
    else:
        own = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        own.pre_tokenizer = Whitespace()
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
        names |= {"bos_token": "<s>"} if kind == "xlm" else {"pad_token": "</s>"}
        frame = "<s> $A </s>" if kind == "xlm" else "$A </s>"
    ids = [(mark, vocabulary[mark]) for mark in marks if mark in frame]
    own.post_processor = TemplateProcessing(single=frame, special_tokens=ids)
    PreTrainedTokenizerFast(tokenizer_object=own, **names).save_pretrained(folder)
    return len(vocabulary)


def write_open_clip(folder, *, text_cfg=None, vision_cfg=None, preprocess_cfg=None, custom=False):
    """An open_clip model with random weights; a `custom` one has its text tower apart."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 1,
            "width": WIDTH,
            "head_width": 8,
            "patch_size": 16,
            **(vision_cfg or {}),
        },
        "text_cfg": {"width": WIDTH, "heads": 2, "layers": 1, **(text_cfg or {})},
    }
    if custom:
        config["custom_text"] = True
    torch.manual_seed(0)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(
        WIDTH,
        open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        open_clip.CLIPTextCfg(
            **{
                k: v
                for k, v in config["text_cfg"].items()
                if not k.startswith(("tokenizer_", "hf_"))
            }
        ),
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    whole = {"model_cfg": config, "preprocess_cfg": preprocess_cfg or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder
