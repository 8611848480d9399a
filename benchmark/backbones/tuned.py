"""Backbones whose weights were fine-tuned: `tuned:FOLDER` of ours, `tuned:NAME@FILE` of CLIP4Cir.

A fine-tuned CLIP has another name than its base, with eight digits of its weights in it, so that
its records and stored embeddings are never taken for the base's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cirbench.benchmark.api.method import Checkpoint
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.checkpoints import (
    loading_network,
    name_some,
    read_checkpoint,
    sha256_of_tensors,
    strip_wrappers,
)
from cirbench.benchmark.runtime.errors import CorruptData, UsageError

CLIP_FILE = "clip.safetensors"
_KEPT_WHOLE = ("ln_", "bn", "embedding", "downsample.1", "logit_scale")
"""What OpenAI's loader leaves in single precision: norms and embeddings."""


def load(name: str, *, device: str, precision: str) -> TorchBackbone:
    """A base, with the weights of a folder that `bench train clip-sum` wrote or of a {"CLIP"} file.

    Raises:
        UsageError: the name is neither form.
        MissingData, CorruptData: the weights are not there, or not for the base.
    """
    base_name, _, file = name.removeprefix("tuned:").rpartition("@")
    path = Path(file) if base_name else Path(file) / CLIP_FILE
    checkpoint = read_checkpoint(path)
    base_name = base_name or str(checkpoint.provenance.get("base", ""))
    if not base_name:
        raise UsageError(
            f"{path} must name the backbone it was tuned from, and does not; write "
            f"tuned:NAME@{path}"
        )
    return replace_weights(
        _load_base(base_name), base_name, _read_weights(checkpoint), path, device, precision
    )


def replace_weights(
    base: TorchBackbone,
    base_name: str,
    weights: Mapping[str, Tensor],
    path: Path,
    device: str,
    precision: str,
) -> TorchBackbone:
    """Replace the weights of a base, and name it after the new ones."""
    own = base.model.state_dict()
    misfits = [n for n, t in own.items() if n not in weights or weights[n].shape != t.shape]
    if misfits:
        raise CorruptData(
            f"{path} does not fit {base_name}: {len(misfits)} of {len(own)} weights are missing or "
            f"have another shape: {name_some(misfits)}"
        )
    base.model.load_state_dict({name: weights[name] for name in own})
    digits = sha256_of_tensors(base.model.state_dict())[:8]
    return replace(
        base, name=f"{base.name}+{digits}", device=torch.device(device), precision=precision
    )


def _load_base(name: str) -> TorchBackbone:
    from cirbench.benchmark.backbones.load import load_backbone

    base = load_backbone(name, device="cpu", precision="fp32")
    if not isinstance(base, TorchBackbone):
        raise UsageError(f"a tuned backbone must be based on a torch CLIP, got {name}")
    return base


def _read_weights(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Ours as they are; the released ones rounded as the released evaluation rounds them.

    It copies the file into a model in half precision and computes in single precision, so that
    everything but norms and embeddings is rounded.
    """
    with loading_network(checkpoint, "CLIP"):
        if "CLIP" not in checkpoint.content:
            return strip_wrappers(checkpoint.content)
        return {
            name: tensor.float() if _is_kept_whole(name) else tensor.half().float()
            for name, tensor in strip_wrappers(checkpoint.content["CLIP"]).items()
            if tensor.is_floating_point() or "num_batches" in name
        }


def _is_kept_whole(name: str) -> bool:
    return any(part in name for part in _KEPT_WHOLE)
