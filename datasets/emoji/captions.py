"""What the tiny CLIP is told of a picture.

A caption may name the concept, the style, both, or neither word by word of the other; which of the
two it names decides which other pictures of a batch it is also true of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PHRASES = {
    "3d": ("photo", "3d emoji", "glossy render"),
    "flat": ("flat icon", "flat emoji", "flat drawing"),
    "mono": ("black and white icon", "black outline", "monochrome emoji"),
    "noto": ("noto emoji", "cartoon", "noto drawing"),
    "twemoji": ("twemoji", "sticker", "twitter emoji"),
    "noto1": ("blob emoji", "blob drawing"),
    "eo": ("emojione picture", "emojione drawing"),
    "eo_mono": ("stencil", "black stencil"),
}
"""Style → the phrases that fit "a {phrase} of {name}"."""

_WITH_STYLE = ("a {phrase} of {name}", "a {phrase} of a {name}", "{name}, {phrase}")
_STYLE_ONLY = ("a {phrase}", "a {phrase} of something", "a {phrase} of")
_NAME_ONLY = ("{name}", "an emoji of {name}", "a picture of {name}")
_SHARES = {"both": 0.6, "name": 0.28, "style": 0.12}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and what it says; None where it says nothing of it."""

    text: str
    name: str | None
    style: str | None


def draw_caption(name: str, style: str, rng: np.random.Generator) -> Caption:
    """A random caption of a picture."""
    kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
    phrase = str(rng.choice(PHRASES[style]))
    if kind == "style":
        return Caption(str(rng.choice(_STYLE_ONLY)).format(phrase=phrase), None, style)
    if kind == "name":
        return Caption(str(rng.choice(_NAME_ONLY)).format(name=name), name, None)
    text = str(rng.choice(_WITH_STYLE)).format(phrase=phrase, name=name)
    return Caption(text, name, style)
