"""What a stored vector depends on besides the picture or text that it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PIL import features

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.embedding.encoding_code import hash_foreign_code, hash_own_code
from cirbench.benchmark.runtime.provenance import PACKAGES, read_package_versions

KEY_DIGITS = 32
_PACKAGES = frozenset(PACKAGES) - {"cirbench", "numpy", "safetensors"}
_DECODERS = ("jpg", "libjpeg_turbo", "webp")
"""Libraries behind Pillow whose versions may give other pixels of the same file."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A space of embeddings: everything but the picture that can change a vector.

    Attributes:
        preprocess: what is done to a picture, or a text, before it reaches the tower.
        device: its kind alone; cuda:0 and cuda:1 compute alike, a CPU does not.
        tokenizer: sha256, for texts and prompts.
        width: of a row; None where any will do.
        checkpoint: sha256 of the method's weights that make the pseudo-words of prompts.
        code: sha256 of our code that makes a vector.
        plug_in: sha256 of the code beside `benchmark` that a backbone is from, if any: a method's
            or others'.
        backbone: its name, for a person; not part of the key.
    """

    kind: str
    backbone: str
    weights: str
    architecture: str
    preprocess: str
    precision: str
    device: str
    width: int | None = None
    tokenizer: str | None = None
    checkpoint: str | None = None
    plug_in: str | None = None
    packages: Mapping[str, str | None] = field(default_factory=lambda: find_libraries())
    code: str = field(default_factory=hash_own_code)

    @property
    def canonical(self) -> str:
        """The text that is hashed."""
        return write_canonical(asdict(self))

    @property
    def key(self) -> str:
        return compute_key(asdict(self))


def find_libraries() -> dict[str, str | None]:
    """Versions of the libraries that decide a vector."""
    packages = {name: known for name, known in read_package_versions().items() if name in _PACKAGES}
    return packages | {name: features.version(name) for name in _DECODERS}


def write_canonical(space: Mapping[str, Any]) -> str:
    """Write a space as its canonical JSON; before `code` it had the backbone's name in it."""
    said = {name: value for name, value in space.items() if name != "backbone"}
    return json.dumps(said if "code" in space else space, sort_keys=True, separators=(",", ":"))


def compute_key(space: Mapping[str, Any]) -> str:
    """Compute the name of a space's folder, whichever version of this code wrote it."""
    return hash_text(write_canonical(space))


def hash_text(text: str) -> str:
    """The first digits of the sha256 of a space's one text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:KEY_DIGITS]


def make_image_space(backbone: Backbone, preprocess: str) -> Space:
    """Make the space of a backbone's embeddings of pictures."""
    return _make_space("image", backbone, backbone.image_spec.fingerprint(preprocess))


def make_text_space(backbone: Backbone, *, truncate: bool, checkpoint: str | None = None) -> Space:
    """Make the space of a backbone's embeddings of texts.

    Args:
        checkpoint: weights that make pseudo-words; the space is then that of their prompts.
    """
    kind = "prompt" if checkpoint else "text"
    space = _make_space(kind, backbone, "cut to the context" if truncate else "uncut")
    return replace(space, tokenizer=backbone.tokenizer_sha256, checkpoint=checkpoint)


def _make_space(kind: str, backbone: Backbone, preprocess: str) -> Space:
    return Space(
        kind=kind,
        backbone=backbone.name,
        weights=backbone.weights_sha256,
        architecture=backbone.architecture_sha256,
        preprocess=preprocess,
        precision=backbone.precision,
        device=str(backbone.device).partition(":")[0],
        width=backbone.embedding_width,
        plug_in=hash_foreign_code(backbone),
    )
