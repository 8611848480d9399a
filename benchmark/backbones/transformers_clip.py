"""Backbones of the transformers library: `hf:ORG/NAME` of the hub, or `hf:/FOLDER`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import CLIP_MEAN, CLIP_STD, ImageSpec
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.foreign import ForeignTokenizer, describe_tokenizer
from cirbench.benchmark.backbones.loading import (
    check_folder,
    check_report,
    read_channels,
    read_deviations,
    read_square_side,
    translate_errors,
)
from cirbench.benchmark.runtime.errors import CorruptData, UsageError

_NEEDED = {
    "a configuration": ("config.json",),
    "weights": ("*.safetensors", "*.bin"),
    "a tokenizer": ("tokenizer.json", "vocab.json"),
}
_KINDS = {"clip": "CLIP", "metaclip_2": "MetaClip2", "siglip": "Siglip"}
"""A model's type → its classes; SigLIP 2 has SigLIP's, but for pictures of any shape (siglip2)."""
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, as the files have them."""


def load(name: str, *, device: str, precision: str) -> TorchBackbone:
    """A transformers CLIP with its own tokenizer, mean and standard deviation."""
    import transformers
    from transformers import AutoTokenizer, CLIPImageProcessor
    from transformers.utils import logging as chatter

    source = name.removeprefix("hf:")
    folder = Path(source) if Path(source).is_dir() else None
    if folder is not None:
        check_folder(name, folder, _NEEDED)
    with translate_errors(name, folder), _silence_library(chatter):
        kind = transformers.CLIPConfig.get_config_dict(source)[0].get("model_type")
        if kind not in _KINDS:
            raise CorruptData(
                f"{name} must be a CLIP with both towers ({', '.join(_KINDS)}), got {kind!r}"
            )
        config: Any = getattr(transformers, f"{_KINDS[kind]}Config").from_pretrained(source)
        vision = config.vision_config
        vision.image_size = read_square_side(name, vision.image_size)
        loaded: Any = getattr(transformers, f"{_KINDS[kind]}Model").from_pretrained(
            source, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
        model, report = loaded
        check_report(name, report)
        tokenizer = AutoTokenizer.from_pretrained(source)
        own = _read_preprocess(CLIPImageProcessor, source)
        return from_model(name, model, tokenizer, own=own, device=device, precision=precision)


@contextmanager
def _silence_library(chatter: Any) -> Iterator[None]:
    """Keep the library's progress bars and reports off the terminal: we read the report."""
    shown, verbosity = chatter.is_progress_bar_enabled(), chatter.get_verbosity()
    chatter.disable_progress_bar()
    chatter.set_verbosity_error()
    try:
        yield
    finally:
        chatter.set_verbosity(verbosity)
        if shown:
            chatter.enable_progress_bar()


def _read_preprocess(processor: Any, source: str) -> Mapping[str, Any]:
    """The model's preprocessor_config.json; empty where it has none, which means CLIP's."""
    files = [Path(source) / name for name in ("preprocessor_config.json", "processor_config.json")]
    if Path(source).is_dir() and not any(path.exists() for path in files):
        return {}
    found = processor.get_image_processor_dict(source)[0]
    if not isinstance(found, Mapping):
        raise CorruptData(f"{source}: preprocessor_config.json must hold a JSON object")
    return found


def from_model(
    name: str,
    model: Any,
    tokenizer: Any,
    *,
    own: Mapping[str, Any] | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> TorchBackbone:
    """Wrap a `transformers.CLIPModel`, `MetaClip2Model` or `SiglipModel`.

    Args:
        own: its image processor's settings.
    """
    kind, text = model.config.model_type, model.config.text_config
    siglip = kind == "siglip"
    own = own or ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if siglip else {})

    def image_tower(pixels: Tensor) -> Tensor:
        found = model.vision_model(pixel_values=pixels).pooler_output
        return found if siglip else model.visual_projection(found)  # type: ignore[no-any-return]  # model is Any

    def text_tower(ids: Tensor) -> Tensor:
        found = model.text_model(input_ids=ids).pooler_output
        return found if siglip else model.text_projection(found)  # type: ignore[no-any-return]  # model is Any

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts))["input_ids"]  # type: ignore[no-any-return]  # tokenizer is Any

    normalised = own.get("do_normalize", True)
    if not math.isclose(own.get("rescale_factor", 1 / 255) * own.get("do_rescale", True), 1 / 255):
        raise UsageError(f"the preprocessing of {name} must scale pixels to 0 to 1 (by 1/255)")
    if tokenizer.pad_token_id is None:
        raise CorruptData(f"the tokenizer of {name} must have a padding token")
    tokens: dict[str, Any] = {
        "tokenize": tokenize,
        "tokenizer_content": describe_tokenizer(tokenizer),
        "vocabulary": max(tokenizer.get_vocab().values()) + 1,
        "pad_id": tokenizer.pad_token_id,
    }
    if kind != "clip":
        foreign = ForeignTokenizer(own=tokenizer)
        tokens = foreign.describe(name, text.max_position_embeddings)
    return TorchBackbone(
        name=name,
        model=model,
        image_tower=image_tower,
        text_tower=text_tower,
        token_embedding=model.text_model.embeddings.token_embedding,
        **tokens,
        end_of_text=_find_end_of_text(kind, text),
        reads_last=siglip,
        causal=not siglip,
        context_length=text.max_position_embeddings,
        embedding_width=text.projection_size if siglip else model.config.projection_dim,
        image_spec=ImageSpec(
            size=model.config.vision_config.image_size,
            mean=read_channels(name, "mean", own.get("image_mean") or CLIP_MEAN)
            if normalised
            else (0.0, 0.0, 0.0),
            std=read_deviations(name, own.get("image_std") or CLIP_STD)
            if normalised
            else (1.0, 1.0, 1.0),
        ),
        own_preprocess=_describe(own),
        token_tower=lambda pixels: model.vision_model(pixel_values=pixels).last_hidden_state,
        vision_width=0 if siglip else model.config.vision_config.hidden_size,
        logit_scale=float(model.logit_scale.detach().exp()),
        device=torch.device(device),
        precision=precision,
    )


def _find_end_of_text(kind: str, config: Any) -> int | None:
    """Where its text tower reads; 2 stands in a CLIP's old files for the highest token."""
    return None if kind == "clip" and config.eos_token_id == 2 else int(config.eos_token_id)


def _describe(own: Mapping[str, Any]) -> str:
    size = own.get("size", {})
    squash = isinstance(size, Mapping) and "height" in size
    resample = _RESAMPLING.get(own.get("resample", 3), "another interpolation")
    return f"{'squash' if squash else 'shortest'}, {resample}"
