"""What the fields of a record are, as data; a record is held to it when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_TEXT_OR_NONE = (str, type(None))
_NUMBER = (int, float)
_INTERVAL = {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "n": int}
ANY = "*"
"""For every key, or of every kind."""

RECORD: Mapping[str, Any] = {
    "cell": {
        "method": str,
        "trained_on": _TEXT_OR_NONE,
        "task": str,
        "split": str,
        "protocol": str,
        "backbone": str,
        "checkpoint": _TEXT_OR_NONE,
        "seed": int,
        "label": _TEXT_OR_NONE,
    },
    "method": {"zero_shot": bool, "remarks": [str]},
    "metrics": {ANY: {ANY: _INTERVAL}},
    "groups": [str],
    "protocol": {
        "name": str,
        "version": int,
        "hash": str,
        "metrics": [str],
        "headline": str,
        "averages": {ANY: [str]},
        "recall_epsilon": _NUMBER,
        "gallery": str,
        "reference_removed": bool,
        "preprocess": str,
    },
    "bootstrap": {"resamples": int},
    "counts": {ANY: int},
    "fingerprints": {ANY: _TEXT_OR_NONE},
    "checkpoint": {"name": str},
    "annotations": {"released": bool, "files": {ANY: str}, "remarks": [str]},
    "run": {"partial": bool, "limit": (int, type(None)), "seconds": {ANY: _NUMBER}},
    "environment": {ANY: ANY},
    "per_query": {"file": str, "sha256": str},
    "submission": [str],
}
"""Field → its kind: a type or several, a list of one, or a mapping. Others may stand beside."""


def find_wrong_field(value: Any, kind: Any, where: str = "the record") -> str | None:
    """What a field must be and is not, with its place; None where every field is right."""
    if kind == ANY:
        return None
    if isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            return f"{where} must be a table, got {value!r:.60}"
        parts = [(value[key], kind.get(key, kind.get(ANY, ANY)), key) for key in value]
        wrong = (
            _find_wrong_key(key) or find_wrong_field(v, k, key_in(where, key))
            for v, k, key in parts
        )
        return next(filter(None, wrong), None)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} must be a list, got {value!r:.60}"
        found = (find_wrong_field(part, kind[0], where) for part in value)
        return next(filter(None, found), None)
    return _find_wrong_value(value, kind if isinstance(kind, tuple) else (kind,), where)


def _find_wrong_value(value: Any, kinds: tuple[type, ...], where: str) -> str | None:
    if type(value) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds)
        return f"{where} must be {names}, got {value!r:.60}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} must be finite, got {value}"
    return _find_wrong_key(value) if isinstance(value, str) else None


def _find_wrong_key(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!a} must be text that can be written"
    return None


def key_in(where: str, key: str) -> str:
    """The place of a field, from the record's own fields on."""
    return key if where == "the record" else f"{where}.{key}"


def find_field(data: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name; None where there is none."""
    found: Any = data
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
