"""Backbones of the transformers library: `hf:ORG/NAME` of the hub, or `hf:/FOLDER`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import CLIP_MEAN, CLIP_STD, ImageSpec
from cirbench.benchmark.backbones.base import TorchBackbone
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
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, as the files have them."""


def load(name: str, *, device: str, precision: str) -> TorchBackbone:
    """A transformers CLIP with its own tokenizer, mean and standard deviation."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel
    from transformers.utils import logging as chatter

    source = name.removeprefix("hf:")
    folder = Path(source) if Path(source).is_dir() else None
    if folder is not None:
        check_folder(name, folder, _NEEDED)
    with translate_errors(name, folder), _silence_library(chatter):
        kind = CLIPConfig.get_config_dict(source)[0].get("model_type")
        if kind != "clip":
            raise CorruptData(f"{name} must be a CLIP with both towers, got {kind!r}")
        config: Any = CLIPConfig.from_pretrained(source)
        vision = config.vision_config
        vision.image_size = read_square_side(name, vision.image_size)
        loaded: Any = CLIPModel.from_pretrained(
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
    """Wrap a `transformers.CLIPModel`.

    Args:
        own: its image processor's settings.
    """
    own = own or {}

    def image_tower(pixels: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)  # type: ignore[no-any-return]  # model is Any

    def text_tower(ids: Tensor) -> Tensor:
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)  # type: ignore[no-any-return]  # model is Any

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts))["input_ids"]  # type: ignore[no-any-return]  # tokenizer is Any

    normalised = own.get("do_normalize", True)
    if not math.isclose(own.get("rescale_factor", 1 / 255) * own.get("do_rescale", True), 1 / 255):
        raise UsageError(f"the preprocessing of {name} must scale pixels to 0 to 1 (by 1/255)")
    if tokenizer.pad_token_id is None:
        raise CorruptData(f"the tokenizer of {name} must have a padding token")
    return TorchBackbone(
        name=name,
        model=model,
        image_tower=image_tower,
        text_tower=text_tower,
        token_embedding=model.text_model.embeddings.token_embedding,
        tokenize=tokenize,
        tokenizer_content=_describe_tokenizer(tokenizer),
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        end_of_text=_find_end_of_text(model.config.text_config),
        pad_id=tokenizer.pad_token_id,
        causal=True,
        context_length=model.config.text_config.max_position_embeddings,
        embedding_width=model.config.projection_dim,
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
        vision_width=model.config.vision_config.hidden_size,
        logit_scale=float(model.logit_scale.detach().exp()),
        device=torch.device(device),
        precision=precision,
    )


def _find_end_of_text(config: Any) -> int | None:
    """Where the library's text tower reads; 2 stands in old files for the highest token."""
    return None if config.eos_token_id == 2 else int(config.eos_token_id)


def _describe(own: Mapping[str, Any]) -> str:
    size = own.get("size", {})
    squash = isinstance(size, Mapping) and "height" in size
    resample = _RESAMPLING.get(own.get("resample", 3), "another interpolation")
    return f"{'squash' if squash else 'shortest'}, {resample}"


def _describe_tokenizer(tokenizer: Any) -> str:
    """All that a tokenizer is made of, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return f"{type(tokenizer).__qualname__} {vocabulary}"
