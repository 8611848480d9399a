"""A CLIP-like pair of towers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class Backbone(Protocol):
    """A CLIP-like pair of towers with one joint embedding of width C and tokens of width W.

    Examples:
        >>> import cirbench
        >>> backbone = cirbench.load_backbone("fake")
        >>> backbone.encode_texts(["a dog", "a cat"]).shape == (2, backbone.embedding_width)
        True
    """

    name: str
    embedding_width: int
    context_length: int
    image_spec: ImageSpec
    weights_sha256: str
    architecture_sha256: str
    """Of what its vectors depend on besides the weights, such as the number of heads."""
    tokenizer_sha256: str
    """Of all that turns a text into tokens."""
    logit_scale: float
    """What the towers were trained to multiply cosines by (about 100 for OpenAI's)."""
    device: Any
    precision: str
    """As `backbones.load_backbone` has it."""

    @property
    def token_width(self) -> int: ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of its numbers should know."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32, preprocessed → (B, C) float32, not normalised.

        Of a backbone that is a `FileDecoder` too, B of what its `decode` gives, stacked.
        """
        ...

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """B texts → (B, C) float32, not normalised.

        Raises:
            UsageError: a text exceeds the context and `truncate` is off.
        """
        ...

    def encode_prompts(
        self,
        prompts: Sequence[str],
        words: Tensor,
        *,
        placeholder: str = "*",
        truncate: bool = False,
        every: bool = False,
    ) -> Tensor:
        """B prompts, each with its first placeholders' embeddings replaced → (B, C) float32.

        Args:
            words: (B, W) float32, a pseudo-word a prompt, or (B, P, W), for its first P
                placeholders in their order. Gradients reach them.
            every: with (B, W), put a prompt's word in place of each of its placeholders that the
                context holds, which may be none.

        Raises:
            UsageError: a prompt has too few placeholders of its own ("*," is another token than
                "* ,"), or exceeds the context and `truncate` is off.
        """
        ...

    def parameters(self) -> Iterable[Tensor]:
        """The towers' weights."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """The towers' weights by their library's names; open_clip's are OpenAI's."""
        ...


@runtime_checkable
class FileDecoder(Protocol):
    """What a backbone may have besides: a way of its own from a picture's file to its input.

    Without it Pillow decodes the file, and the protocol's preprocessing makes the input.
    """

    def decode(self, content: bytes) -> Tensor:
        """A picture's file → float32, one row of what `encode_images` takes; called from threads.

        Raises:
            CorruptData: the file is of another kind, or damaged; the caller adds which picture.
        """
        ...


@runtime_checkable
class TokenTower(Protocol):
    """What a backbone may have besides: all tokens of a picture, and its table's own words.

    Attributes:
        vision_width: V, of a picture's token; 0 where the image tower has no tokens.
    """

    vision_width: int

    def encode_image_tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) as for `encode_images` → (B, 1 + P, V) float32, the class token first.

        They are what the last block of a vision transformer gives, before its last norm.
        """
        ...

    def embed_word(self, word: str) -> Tensor:
        """A word of the vocabulary → (W,) float32, its row of the table.

        Raises:
            UsageError: it is several tokens there.
        """
        ...


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a backbone's image tower takes: side in pixels, and the normalisation of RGB."""

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a record."""
        return asdict(self)

    def fingerprint(self, preprocess: str) -> str:
        """sha256 over the named preprocessing and this tower's numbers."""
        canonical = json.dumps({"preprocess": preprocess, **self.as_dict()}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
