"""Loading a backbone by its name."""

from __future__ import annotations

import warnings
from pathlib import Path

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.registry import find_backbone, split_name
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.torch_state import seeded


def load_backbone(name: str, *, device: str = "cpu", precision: str = "fp32") -> Backbone:
    """The backbone of that name, its towers frozen, in eval mode, on a device.

    Args:
        name: as `bench ls backbones` has it, or NAME=THAT for a name of one's own in records.
        precision: "fp32", "bf16" or "fp16", for weights and activations of the towers; "amp" or
            "amp_bf16", for float32 weights under autocast to float16 or bfloat16. What the towers
            give is float32 in any case.

    Raises:
        UsageError: no backbone has that name.
        MissingData: its weights are not on this machine and can't be fetched.

    Examples:
        >>> import cirbench
        >>> cirbench.load_backbone("emoji-clip").embedding_width
        128
    """
    own_name, spec = split_name(name)
    _check_folder(spec)
    with seeded(0), warnings.catch_warnings():  # libraries draw weights before they read them
        warnings.filterwarnings("ignore", "IProgress not found")  # by tqdm, of a bar not shown
        backbone: Backbone = find_backbone(spec)(spec, device=device, precision=precision)
    if own_name or ":" in backbone.name:
        backbone.name = own_name or _shorten_name(backbone.name)
    return backbone


def _shorten_name(name: str) -> str:
    """A folder is shown by its last part: it is its content that tells it from others."""
    kind, _, path = name.partition(":")
    return f"{kind}:{Path(path).resolve().name}" if Path(path).is_dir() else name


def _check_folder(name: str) -> None:
    """Some backbones are folders, which the libraries would look for on the hub."""
    kind, _, path = name.partition(":")
    a_path = path.startswith(("/", ".")) and kind != "trained"  # which is a file
    if (kind == "local-dir" or a_path) and not Path(path).is_dir():
        raise MissingData(
            f"backbone {name} must be a folder that exists, got {path}; check the path"
        )
