"""Which file of weights a method takes, and over which backbone a file was trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cirbench.benchmark.api.registry import find_method, methods, needs_checkpoint, split_name
from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file

_PATHS = ("hf:", "local-dir:", "tuned:")
"""Backbones whose names in a header may be those of folders elsewhere."""


def shipped_checkpoints(method: str) -> Mapping[str, Path]:
    """Backbone name → the method's weights for it that come with cirbench."""
    folder = Path(str(files("cirbench.methods") / "weights"))
    found = sorted(folder.glob(f"{method}--*.safetensors"))
    return {path.stem.removeprefix(f"{method}--"): path for path in found}


def checkpoint_path(method: str, backbone: str, wanted: Mapping[str, Path]) -> Path | None:
    """The method's weights: those asked for, else the shipped ones; None where it has none.

    Raises:
        MissingData: it needs weights, and the file is not there or none is shipped for the
            backbone.
    """
    if not needs_checkpoint(method):
        return None
    if method in wanted:
        check_is_file(wanted[method], "checkpoint")
        return wanted[method]
    backbone = split_name(backbone)[1]
    trained = Path(backbone.removeprefix("trained:"))
    if backbone.startswith("trained:") and read_header(trained).get("kind") == method:
        return trained
    beside = Path(backbone.removeprefix("tuned:")) / f"{method}.safetensors"
    if backbone.startswith("tuned:") and beside.is_file():
        return beside
    shipped = shipped_checkpoints(method)
    if backbone not in shipped:
        raise MissingData(
            f"{method} needs --checkpoint {method}=FILE for the backbone {backbone} (one is "
            f"shipped for {', '.join(shipped) or 'no backbone'}); bench train --help lists what "
            f"can be trained here"
        )
    return shipped[backbone]


def parse_checkpoints(given: Sequence[str], chosen: Sequence[str]) -> dict[str, Path]:
    """METHOD=FILE, or FILE alone where one of the chosen methods takes weights.

    Raises:
        UsageError: a FILE alone could be of several methods, or of none; METHOD is unknown, or has
            two.
    """
    found: dict[str, Path] = {}
    for text in given:
        method, _, path = text.rpartition("=")
        if method not in methods():
            if method.isidentifier() and not Path(text).exists():
                find_method(method)
            method, path = _only_taker(text, chosen), text
        if found.setdefault(method, Path(path)) != Path(path):
            raise UsageError(f"{method} has two checkpoints: {found[method]} and {path}")
    return found


def _only_taker(text: str, chosen: Sequence[str]) -> str:
    takers = [name for name in chosen if name != "all" and needs_checkpoint(name)]
    if not takers:
        raise UsageError(
            f"--checkpoint {text} needs a method that takes weights; none of the chosen methods "
            f"does"
        )
    if len(takers) > 1:
        raise UsageError(
            f"--checkpoint {text} must name its method, {' or '.join(takers)}; write METHOD={text}"
        )
    return takers[0]


def read_header(path: Path) -> Mapping[str, Any]:
    """What a file of ours says of itself; nothing of any other file. No weights are read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get("cirbench", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}  # whoever reads the weights says what is wrong
    return header if isinstance(header, dict) else {}


def find_backbone_of(wanted: str | None, checkpoints: Iterable[Path]) -> str | None:
    """The backbone for weights: the one that is asked for, else what their headers say.

    Weights whose trunk was trained along are a backbone themselves, `trained:FILE`, and stand for
    the one they started from.

    Raises:
        UsageError: none is asked for, and the weights were trained over different ones.
    """
    headers = {path: read_header(path) for path in checkpoints}
    if wanted is not None and (len(headers) > 1 or wanted not in map(name_start, headers.values())):
        return wanted
    found = {name for path, header in headers.items() if (name := _name_backbone(path, header))}
    if len(found) > 1:
        raise UsageError(
            f"the weights were trained over {' and '.join(sorted(found))}; run them one at a time, "
            f"or name the --backbone for all"
        )
    return next(iter(found), wanted)


def _name_backbone(path: Path, header: Mapping[str, Any]) -> str | None:
    shape, name = header.get("shape"), name_start(header)
    if isinstance(shape, dict) and shape.get("trunk"):
        return f"trained:{path}"
    return None if name is None or name.startswith(_PATHS) else name


def name_start(header: Mapping[str, Any]) -> str | None:
    """The backbone that weights were trained over, or began with; None where none is named."""
    backbone = header.get("backbone")
    name = backbone.get("name") if isinstance(backbone, dict) else None
    return name if isinstance(name, str) and name.isprintable() else None
