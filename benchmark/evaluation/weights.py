"""Which file of weights a method takes, and over which backbone a file was trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cirbench.benchmark.api.registry import find_method, methods, needs_checkpoint, split_name
from cirbench.benchmark.api.weights import ReleasedWeights
from cirbench.benchmark.evaluation.released import (
    RELEASED,
    explain_missing,
    find_file,
    read_released,
    tell_obstacle,
)
from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file

_PATHS = ("hf:", "local-dir:", "tuned:")
"""Backbones whose names in a header may be those of folders elsewhere."""


def shipped_checkpoints(method: str) -> Mapping[str, Path]:
    """Backbone name → the method's weights for it that come with cirbench."""
    folder = Path(str(files("cirbench.methods") / "weights"))
    found = sorted(folder.glob(f"{method}--*.safetensors"))
    return {path.stem.removeprefix(f"{method}--"): path for path in found}


def find_weights(
    method: str, backbone: str, wanted: Mapping[str, Path]
) -> Path | ReleasedWeights | None:
    """The method's weights: those asked for, else shipped ones, else released ones.

    Nothing is fetched yet. None where the method has no weights.

    Raises:
        MissingData: it needs weights, and the file is not there, or none is shipped or released
            for the backbone.
    """
    if not needs_checkpoint(method):
        return None
    backbone = split_name(backbone)[1]
    if method in wanted:
        return _find_wanted(method, backbone, wanted[method])
    trained = Path(backbone.removeprefix("trained:"))
    if backbone.startswith("trained:") and read_header(trained).get("kind") == method:
        return trained
    beside = Path(backbone.removeprefix("tuned:")) / f"{method}.safetensors"
    if backbone.startswith("tuned:") and beside.is_file():
        return beside
    return shipped_checkpoints(method).get(backbone) or _choose_released(method, backbone)


def _find_wanted(method: str, backbone: str, wanted: Path) -> Path | ReleasedWeights:
    """A file, or where there is none of that name, the released one that is called so."""
    if wanted.is_file():
        return wanted
    if str(wanted) == RELEASED:
        return _choose_released(method, backbone)
    for row in read_released():
        if (row.method, row.file) == (method, str(wanted)):
            return _check_obtainable(row)
    check_is_file(wanted, "checkpoint")
    return wanted


def _choose_released(method: str, backbone: str) -> ReleasedWeights:
    """The one that is here, else one that can be fetched, of those for a backbone.

    Raises:
        MissingData: there is none for the backbone, they saw different data, or all must be
            fetched by a person.
    """
    known = [row for row in read_released() if row.method == method]
    fitting = [row for row in known if row.is_for(backbone)]
    if not fitting:
        released = dict.fromkeys(name for row in known for name in row.backbones)
        others = f"; some are released for {', '.join(released)}" if released else ""
        raise MissingData(
            f"{method} needs --checkpoint {method}=FILE for the backbone {backbone} (one is "
            f"shipped for {', '.join(shipped_checkpoints(method)) or 'no backbone'}{others}); "
            f"bench train --help lists what can be trained here"
        )
    if len({row.trained_on for row in fitting}) > 1:
        choices = [f"{method}={row.file} (trained on {row.trained_on})" for row in fitting]
        raise MissingData(
            f"{method} has several released files for {backbone}, which saw different data; choose "
            f"one: --checkpoint {' or '.join(choices)}"
        )
    here = [row for row in fitting if find_file(row)]
    open_ones = [row for row in fitting if not tell_obstacle(row)]
    return _check_obtainable((here or open_ones or fitting)[0])


def _check_obtainable(row: ReleasedWeights) -> ReleasedWeights:
    if (why := tell_obstacle(row)) and not find_file(row):
        raise explain_missing(row, why)
    return row


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
