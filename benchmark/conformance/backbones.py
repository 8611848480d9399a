"""The contract of a backbone, tried on a few pictures and texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.conformance.rules import Finding, Rules, try_rules
from cirbench.benchmark.runtime.errors import UsageError

_TEXTS = ["a photo of a dog", "a cartoon of two cats, asleep on a sofa", "origami"]
_PROMPTS = ["a photo of *", "a cartoon of * in the rain"]
_SAME = 1e-4


def inspect_backbone(backbone: str | Backbone) -> list[Finding]:
    """Try a backbone's contract.

    Args:
        backbone: its name, or one that is loaded.

    Raises:
        UsageError, MissingData, CorruptData: it can't be loaded.
    """
    found = load_backbone(backbone) if isinstance(backbone, str) else backbone
    return try_rules(BACKBONE_RULES, found)


def _pixels(backbone: Backbone, count: int = 3) -> Tensor:
    size = backbone.image_spec.size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _words(backbone: Backbone, *shape: int) -> Tensor:
    made = torch.randn(*shape, backbone.token_width, generator=torch.Generator().manual_seed(0))
    return 0.02 * made.to(backbone.device)


def _shape_fault(found: Tensor, rows: int, backbone: Backbone) -> str | None:
    wanted = (rows, backbone.embedding_width)
    if tuple(found.shape) != wanted or found.dtype != torch.float32:
        return f"must give {wanted} float32, got {tuple(found.shape)} {found.dtype}"
    return None if found.isfinite().all() else "must give finite numbers"


def _difference(found: Tensor, wanted: Tensor, where: str) -> str | None:
    off = (normalize(found, dim=-1) - normalize(wanted, dim=-1)).abs().max().item()
    return None if off < _SAME else f"must give the same {where}, off by {off:.2g}"


@torch.no_grad()
def _encodes_images(backbone: Backbone) -> str | None:
    pixels = _pixels(backbone)
    found = backbone.encode_images(pixels)
    alone = torch.cat([backbone.encode_images(one[None]) for one in pixels])
    return _shape_fault(found, len(pixels), backbone) or _difference(
        alone, found, "for a picture alone and in a batch"
    )


@torch.no_grad()
def _encodes_texts(backbone: Backbone) -> str | None:
    found = backbone.encode_texts(_TEXTS)
    alone = torch.cat([backbone.encode_texts([text]) for text in _TEXTS])
    fault = _shape_fault(found, len(_TEXTS), backbone)
    if fault is None and torch.equal(found[0], found[1]):
        return "must tell two texts apart"
    return fault or _difference(alone, found, "for a text alone and in a batch")


@torch.no_grad()
def _encodes_prompts(backbone: Backbone) -> str | None:
    words = _words(backbone, len(_PROMPTS))
    found = backbone.encode_prompts(_PROMPTS, words)
    if fault := _shape_fault(found, len(_PROMPTS), backbone):
        return fault
    if torch.equal(found, backbone.encode_prompts(_PROMPTS, 2 * words)):
        return "a pseudo-word must change a prompt's embedding"
    return _difference(
        backbone.encode_prompts(_PROMPTS, words[:, None]), found, "for (B, W) and (B, 1, W) words"
    )


@torch.no_grad()
def _fills_every_placeholder(backbone: Backbone) -> str | None:
    prompts = ["* and * on a sofa", "a photo of *", "a cartoon"]
    words = _words(backbone, len(prompts))
    apart = [
        backbone.encode_prompts(prompts[:1], words[:1, None].expand(1, 2, -1)),
        backbone.encode_prompts(prompts[1:2], words[1:2]),
        backbone.encode_texts(prompts[2:]),
    ]
    found = backbone.encode_prompts(prompts, words, every=True)
    return _shape_fault(found, len(prompts), backbone) or _difference(
        found, torch.cat(apart), "with `every` and with a word for each placeholder"
    )


def _passes_gradients(backbone: Backbone) -> str | None:
    words = _words(backbone, len(_PROMPTS)).requires_grad_()
    backbone.encode_prompts(_PROMPTS, words).sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    if words.grad is None or not words.grad.abs().sum() > 0:
        return "a gradient must reach the pseudo-words"
    if any(weights.grad is not None for weights in backbone.parameters()):
        return "the towers' weights must be frozen"
    return None


@torch.no_grad()
def _refuses_what_is_too_long(backbone: Backbone) -> str | None:
    text = " ".join(["dog"] * (2 * backbone.context_length))
    try:
        backbone.encode_texts([text])
    except UsageError:
        cut = backbone.encode_texts([text], truncate=True)
        return _shape_fault(cut, 1, backbone)
    return "a text beyond the context must be refused (UsageError) unless it is to be cut"


@torch.no_grad()
def _refuses_prompts_without_placeholder(backbone: Backbone) -> str | None:
    try:
        backbone.encode_prompts(["a photo"], _words(backbone, 1))
    except UsageError:
        return None
    return "a prompt without its placeholder must be refused (UsageError)"


def _is_deterministic(backbone: Backbone) -> str | None:
    with torch.no_grad():
        pairs: Sequence[tuple[Tensor, Tensor]] = [
            (backbone.encode_images(_pixels(backbone)), backbone.encode_images(_pixels(backbone))),
            (backbone.encode_texts(_TEXTS), backbone.encode_texts(_TEXTS)),
        ]
    same = all(torch.equal(one, other) for one, other in pairs)
    return None if same else "the same input must give the same embedding"


def _has_fingerprints(backbone: Backbone) -> str | None:
    for name in ("weights_sha256", "architecture_sha256", "tokenizer_sha256"):
        value = getattr(backbone, name)
        if not isinstance(value, str) or len(value) != 64:
            return f"{name} must be 64 hexadecimal digits, got {value!r}"
    if not backbone.logit_scale > 0:
        return f"logit_scale must be positive, got {backbone.logit_scale}"
    return None


BACKBONE_RULES: Rules[Backbone] = {
    "names its content": _has_fingerprints,
    "encodes pictures": _encodes_images,
    "encodes texts": _encodes_texts,
    "encodes prompts with a pseudo-word": _encodes_prompts,
    "puts a pseudo-word in every placeholder": _fills_every_placeholder,
    "passes gradients to pseudo-words alone": _passes_gradients,
    "is deterministic": _is_deterministic,
    "refuses a text beyond its context": _refuses_what_is_too_long,
    "refuses a prompt without its placeholder": _refuses_prompts_without_placeholder,
}
