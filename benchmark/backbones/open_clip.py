"""Backbones of the open_clip library: its own names, the hub's, a folder's, the embedded one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.errors import CirbenchError, CorruptData, MissingData, UsageError
from cirbench.benchmark.preprocess import ImageSpec


def load_emoji_clip(name: str, *, device: str, precision: str) -> TorchBackbone:
    """The tiny CLIP that is shipped with the emoji pictures."""
    folder = Path(str(files("cirbench.datasets.emoji") / "clip"))
    return _wrap(name, f"local-dir:{folder}", None, device=device, precision=precision)


def load(name: str, *, device: str, precision: str) -> TorchBackbone:
    """`ARCHITECTURE/TAG`, `hf-hub:ORG/NAME` or `local-dir:PATH`."""
    if ":" in name:
        return _wrap(name, name, None, device=device, precision=precision)
    architecture, _, tag = name.partition("/")
    _check_names(architecture, tag)
    return _wrap(name, architecture, tag, device=device, precision=precision)


def _check_names(architecture: str, tag: str) -> None:
    if architecture not in open_clip.list_models():
        raise UsageError(
            f"open_clip has no architecture {architecture!r}; "
            f"python -c 'import open_clip; print(open_clip.list_models())' lists them"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise UsageError(
            f"open_clip has no weights {tag!r} for {architecture}; "
            f"it has: {', '.join(tags) or 'none'}"
        )


def needs_quick_gelu(architecture: str, tag: str | None) -> bool:
    """Whether weights of that tag were trained with QuickGELU (all of OpenAI's were)."""
    if tag is None:
        return False
    return bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False))


def _wrap(
    name: str, model_name: str, tag: str | None, *, device: str, precision: str
) -> TorchBackbone:
    try:
        with _without_chatter():
            model = open_clip.create_model(
                model_name,
                pretrained=tag,
                require_pretrained=True,
                force_quick_gelu=needs_quick_gelu(model_name, tag),
            )
            tokenizer = open_clip.get_tokenizer(model_name)
    except (OSError, RuntimeError, ValueError) as error:
        raise _load_error(name, error) from error
    return from_model(name, model, tokenizer, device=device, precision=precision)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps the libraries' log lines off the terminal: what matters of them is in their errors."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _load_error(name: str, error: Exception) -> CirbenchError:
    """Weights that are not there, or that can't be used."""
    if isinstance(error, OSError) or "Failed to download" in str(error):
        return MissingData(
            f"the weights of {name} are not on this machine and can't be fetched ({error}); fetch "
            f"them where there is a network, with HF_HOME on a disk that both machines see"
        )
    return CorruptData(f"the model {name} can't be loaded: {error}")


def from_model(
    name: str, model: nn.Module, tokenizer: Any, *, device: str = "cpu", precision: str = "fp32"
) -> TorchBackbone:
    """Wraps a CLIP that open_clip made, with either of its two text-tower layouts."""
    text: Any = getattr(model, "text", model)
    visual: Any = model.visual
    if not hasattr(text, "token_embedding"):
        raise UsageError(f"{name} has no CLIP text tower, so no pseudo-word can be put into it")
    size = visual.image_size
    scale: Any = model.logit_scale
    return TorchBackbone(
        name=name,
        model=model,
        image_tower=model.encode_image,  # type: ignore[arg-type]  # nn.Module attributes are untyped
        text_tower=model.encode_text,  # type: ignore[arg-type]  # the same
        token_embedding=text.token_embedding,
        tokenize=_token_lists(tokenizer),
        pad_id=0,
        context_length=int(tokenizer.context_length),
        embedding_width=_embedding_width(text),
        image_spec=ImageSpec(
            size=size[0] if isinstance(size, tuple) else size,
            mean=tuple(visual.image_mean),
            std=tuple(visual.image_std),
        ),
        logit_scale=float(scale.detach().exp()),
        device=torch.device(device),
        precision=precision,
    )


def _embedding_width(text: Any) -> int:
    projection = text.text_projection
    return int(
        projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
    )


def _token_lists(tokenizer: Any) -> Any:
    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return [[start, *tokenizer.encode(text), end] for text in texts]

    return tokenize
