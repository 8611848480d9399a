"""Backbones of the open_clip library: its own names, the hub's, a folder's, the embedded one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.foreign import ForeignTokenizer
from cirbench.benchmark.backbones.loading import (
    check_folder,
    check_report,
    read_channels,
    read_deviations,
    read_square_side,
    translate_errors,
)
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.parsing import read_json


def load_tiny_clip(name: str, *, device: str, precision: str) -> TorchBackbone:
    """`TASK-clip`: the tiny CLIP that is shipped with an embedded task."""
    folder = Path(str(files(f"cirbench.datasets.{name.removesuffix('-clip')}") / "clip"))
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
    _read_text_settings(architecture, open_clip.get_model_config(architecture))


def _read_text_settings(name: str, settings: Any) -> Mapping[str, Any]:
    """A text tower's settings, of a model's; one of another library is refused.

    Raises:
        UsageError: it is one.
        CorruptData: the settings are not those of a model.
    """
    if not isinstance(settings, dict) or not isinstance(settings.get("text_cfg"), dict):
        raise CorruptData(f"the configuration of {name} must have model_cfg with text_cfg")
    text: Mapping[str, Any] = settings["text_cfg"]
    if foreign := text.get("hf_model_name"):
        raise UsageError(
            f"the text tower of {name} must be open_clip's own, which pseudo-words need, got "
            f"{foreign}"
        )
    return text


def _read_tokenizer(name: str, tokenizer: Any) -> dict[str, Any]:
    """What a backbone has to know of its tokenizer, CLIP's own or one of transformers.

    Raises:
        UsageError: it is another one, or works in a way that we do not follow.
    """
    context = int(tokenizer.context_length)
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return {
            "tokenize": _make_tokenize(tokenizer),
            "tokenizer_content": _describe_tokenizer(tokenizer),
            "vocabulary": max(tokenizer.encoder.values()) + 1,
            "pad_id": 0,
            "context_length": context,
        }
    if not isinstance(tokenizer, HFTokenizer) or tokenizer.tokenizer_mode:
        raise UsageError(
            f"the tokenizer of {name} must be CLIP's or a plain one of transformers, got "
            f"{type(tokenizer).__name__} {getattr(tokenizer, 'tokenizer_mode', '')}"
        )
    own = tokenizer.tokenizer
    zeroed = own.sep_token_id if tokenizer.strip_sep_token else None
    foreign = ForeignTokenizer(own=own, clean=tokenizer.clean_fn, zeroed=zeroed)
    return {**foreign.describe(name, context), "context_length": context}


def needs_quick_gelu(architecture: str, tag: str | None) -> bool:
    """Whether weights of that tag were trained with QuickGELU (all of OpenAI's were)."""
    if tag is None:
        return False
    return bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False))


_OWN = {"resize_mode": "shortest", "interpolation": "bicubic"}
"""What of the model's own preprocessing a protocol's may override, with open_clip's defaults."""
_NEEDED = {
    "a configuration": ("open_clip_config.json",),
    "weights": ("*.safetensors", "*.bin", "*.pt", "*.pth"),
}
_TOKENIZER = {"a tokenizer": ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")}


def _wrap(
    name: str, model_name: str, tag: str | None, *, device: str, precision: str
) -> TorchBackbone:
    kind, _, path = model_name.partition(":")
    folder = Path(path) if kind == "local-dir" else None
    if folder is not None:
        check_folder(name, folder, _NEEDED)
        whole = read_json(folder / "open_clip_config.json")
        settings = whole.get("model_cfg") if isinstance(whole, dict) else None
        if _read_text_settings(name, settings).get("hf_tokenizer_name"):
            check_folder(name, folder, _TOKENIZER)  # there, whatever its name
    with translate_errors(name, folder) as log:
        model = open_clip.create_model(
            model_name,
            pretrained=tag,
            require_pretrained=True,
            force_quick_gelu=needs_quick_gelu(model_name, tag),
        )
        check_report(name, {"mismatched_keys": [line for line in log if line.startswith(_RESIZED)]})
        tokenizer = open_clip.get_tokenizer(model_name)
        return from_model(name, model, tokenizer, device=device, precision=precision)


_RESIZED = ("Resizing position embedding", "Resizing text position embedding")
"""open_clip's log where it makes position embeddings of another size out of those of the file."""


def from_model(
    name: str, model: nn.Module, tokenizer: Any, *, device: str = "cpu", precision: str = "fp32"
) -> TorchBackbone:
    """Wrap a CLIP that open_clip made, with either of its two text-tower layouts."""
    text: Any = getattr(model, "text", model)
    visual: Any = model.visual
    if not hasattr(text, "token_embedding"):
        raise UsageError(f"{name} must have a CLIP text tower, which pseudo-words need")
    scale: Any = model.logit_scale
    tower = _TextTower(model)
    own = getattr(visual, "preprocess_cfg", {})
    return TorchBackbone(
        name=name,
        model=model,
        image_tower=model.encode_image,  # type: ignore[arg-type]  # nn.Module attributes are untyped
        text_tower=tower.encode if tower.causal else tower,
        causal=tower.causal,
        token_embedding=text.token_embedding,
        **_read_tokenizer(name, tokenizer),
        end_of_text=_find_end_of_text(model, text),
        reads_last=_find_pool(model, text) == "last",
        embedding_width=_read_width(text),
        image_spec=ImageSpec(
            size=read_square_side(name, visual.image_size),
            mean=read_channels(name, "mean", visual.image_mean),
            std=read_deviations(name, visual.image_std),
        ),
        token_tower=_make_token_tower(visual),
        vision_width=_find_vision_width(visual),
        own_preprocess=", ".join(str(own.get(part, default)) for part, default in _OWN.items()),
        logit_scale=float(scale.detach().exp()),
        device=torch.device(device),
        precision=precision,
    )


class _TextTower(nn.Module):
    """A CLIP's text side by itself, for texts shorter than its context."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._text = "model.text" if hasattr(model, "text") else "model"

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.encode_text(ids)  # type: ignore[operator, no-any-return]  # untyped

    @property
    def causal(self) -> bool:
        """Whether no token looks at a later one, and a text is read at its end."""
        text: Any = self.get_submodule(self._text)
        mask, appended = text.attn_mask, getattr(text, "cls_emb", None)
        if (
            mask is None
            or appended is not None
            or _find_pool(self.model, text) not in ("argmax", "eos")
        ):
            return False
        return torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))

    def encode(self, ids: Tensor) -> Tensor:
        """(B, L) ids of any length → (B, C), with the first L positions."""
        text: Any = self.get_submodule(self._text)
        length = ids.shape[1]
        shorter = {
            f"{self._text}.positional_embedding": text.positional_embedding[:length],
            f"{self._text}.attn_mask": text.attn_mask[:length, :length],
        }
        found: Tensor = torch.func.functional_call(self, shorter, (ids,))
        return found


def _find_vision_width(visual: Any) -> int:
    """The width of a picture's tokens; 0 where the tower has none, or no class token among them."""
    has_tokens = isinstance(visual, VisionTransformer) and visual.attn_pool is None
    return int(visual.transformer.width) if has_tokens else 0


def _make_token_tower(visual: Any) -> Callable[[Tensor], Tensor] | None:
    if not _find_vision_width(visual):
        return None

    def encode(pixels: Tensor) -> Tensor:
        found = visual.forward_intermediates(
            pixels,
            indices=1,  # the last block
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        [patches], [first] = found["image_intermediates"], found["image_intermediates_prefix"]
        return torch.cat([first, patches], dim=1)

    return encode


def _find_pool(model: Any, text: Any) -> str | None:
    """How the text tower makes one vector of a text's."""
    return getattr(model, "text_pool_type", getattr(text, "pool_type", None))


def _find_end_of_text(model: Any, text: Any) -> int | None:
    """The token that the text tower looks for; None where it takes the highest."""
    pool = _find_pool(model, text)
    own = getattr(model, "text_eos_id", getattr(text, "eos_id", None))
    return int(own) if pool == "eos" and own is not None else None


def _describe_tokenizer(tokenizer: open_clip.SimpleTokenizer) -> str:
    """All that a tokenizer is made of, as text."""
    functions = [
        getattr(function, "__name__", None)
        for function in (tokenizer.clean_fn, tokenizer.reduction_fn)
    ]
    ranks = sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])
    parts = (tokenizer.encoder, ranks, tokenizer.pat.pattern, functions)
    return json.dumps(parts, sort_keys=True)


def _read_width(text: Any) -> int:
    projection = text.text_projection
    return int(
        projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
    )


def _make_tokenize(tokenizer: Any) -> Any:
    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return [[start, *tokenizer.encode(text), end] for text in texts]

    return tokenize
