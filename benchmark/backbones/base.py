"""A torch CLIP as a `Backbone`: all but how its library names the parts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import NoReturn

import torch
from torch import Tensor, nn

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.backbones.foreign import find_inner
from cirbench.benchmark.backbones.loading import check_weights
from cirbench.benchmark.backbones.text import (
    PRECISIONS,
    Precision,
    check_context,
    check_places,
    check_precision,
    find_placeholders,
    substitute_embeddings,
)
from cirbench.benchmark.checkpoints import sha256_of_tensors
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.torch_state import full_float32

Tokenizer = Callable[[Sequence[str]], list[list[int]]]
"""Texts → their token ids with start and end of text, uncut and unpadded."""


def hash_architecture(model: nn.Module) -> str:
    """sha256 over what a model computes besides its weights: modules by name and class, with their
    plain settings (heads, epsilons, kinds of pooling), the functions they hold, and buffers that no
    file stores (the attention mask)."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        settings = {
            key: value if isinstance(value, _PLAIN) else value.__qualname__
            for key, value in sorted(vars(module).items())
            if not key.startswith("_")
            and key not in ("training", "name_or_path")
            and isinstance(value, (*_PLAIN, FunctionType, BuiltinFunctionType))
        }
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        digest.update(f"{name}|{kind}|{settings!r}\n".encode())
    stored = model.state_dict().keys()
    unstored = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
    digest.update(sha256_of_tensors(unstored).encode())
    return digest.hexdigest()


PROBES = (
    "a red dog",
    "two cars , at night",
    "Ünïcode 犬 \N{DOG FACE} &amp; <b>",
    "IT'S 2 x 3 = 6!!",
    "a  photo\tof * ,",
    "w" * 40,
)
"""Texts that no two of them may have the same tokens."""
CLIP_RESIZE = "shortest, bicubic"
_UNUSED_ROWS = 2048
"""Tables of tokens are padded to a round number; none has so many rows that stand for nothing."""
_LENGTHS = 8
"""Texts are padded to a multiple of it: fewer lengths make larger batches."""
_PLAIN = (bool, int, float, str, tuple, NoneType)


_LAYOUT = torch.channels_last
"""Of pictures and convolutions; on a CPU it makes a ResNet 1.6 times as fast, a transformer not."""


@dataclass(kw_only=True)
class ImageTower:
    """A frozen tower of pictures in torch.

    Attributes:
        model: the whole model; its weights are frozen and hashed before any cast.
        image_tower: (B, 3, S, S) → (B, C).
    """

    name: str
    model: nn.Module
    image_tower: Callable[[Tensor], Tensor]
    embedding_width: int
    image_spec: ImageSpec
    device: torch.device
    precision: str = "fp32"
    weights_sha256: str = field(init=False)
    architecture_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_weights(self.name, self.model.state_dict())
        self.model.requires_grad_(False).eval()
        self.weights_sha256 = sha256_of_tensors(self.model.state_dict())
        self.architecture_sha256 = hash_architecture(self.model)
        self.model.to(device=self.device, dtype=self._precision.weights).to(memory_format=_LAYOUT)

    @property
    def _precision(self) -> Precision:
        return PRECISIONS[self.precision]

    @property
    def remarks(self) -> tuple[str, ...]:
        return ()

    def parameters(self) -> Iterable[Tensor]:
        return self.model.parameters()

    def state_dict(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self._encode_pixels(self.image_tower, pixels)

    def _encode_pixels(self, tower: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        if self.device.type == "cuda" and not pixels.is_cuda:
            pixels = pixels.pin_memory()  # from there a copy does not wait for the GPU
        pixels = pixels.to(self.device, self._precision.weights, non_blocking=True)
        with self._set_arithmetic():
            return tower(pixels.contiguous(memory_format=_LAYOUT)).float()

    @contextmanager
    def _set_arithmetic(self) -> Iterator[None]:
        autocast = torch.autocast(
            self.device.type, self._precision.compute, enabled=self._precision.autocast
        )
        with full_float32(), autocast:
            yield


@dataclass(kw_only=True)
class TextlessBackbone:
    """What a backbone has in place of a tower of texts: each text is refused."""

    name: str
    context_length: int = 0
    token_width: int = 0
    tokenizer_sha256: str = ""
    logit_scale: float = 1.0

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        self._refuse()

    def encode_prompts(
        self,
        prompts: Sequence[str],
        words: Tensor,
        *,
        placeholder: str = "*",
        truncate: bool = False,
        every: bool = False,
    ) -> Tensor:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UsageError(
            f"{self.name} has no text tower; choose a method that encodes texts itself or looks at "
            f"pictures alone, or a backbone with both towers (bench ls backbones)"
        )


@dataclass(kw_only=True)
class TorchBackbone(ImageTower):
    """A frozen CLIP in torch.

    Attributes:
        text_tower: (B, L) token ids → (B, C).
        token_embedding: the module that gives (B, L, W).
        tokenizer_content: all that the tokenizer is made of, as text.
        vocabulary: one more than its highest token.
        end_of_text: the token where the tower reads a text's embedding; None: the highest one.
        pad_id: fills a row after its end of text.
        carriers: two words that stand in for a placeholder which the tokenizer has no token for.
        reads_last: whether the tower reads a text's embedding at the last place of the context,
            whatever token is there.
        causal: whether a text's embedding is read at its end, where nothing behind it was looked
            at; its padding is then left out.
        own_preprocess: how the model itself resizes pictures, and by which interpolation.
        token_tower: (B, 3, S, S) → (B, 1 + P, V), as `TokenTower` has it; None: it has no tokens.
        vision_width: V, 0 where there is no `token_tower`.
    """

    text_tower: Callable[[Tensor], Tensor]
    token_embedding: nn.Embedding
    tokenize: Tokenizer
    tokenizer_content: str
    vocabulary: int
    end_of_text: int | None = None
    pad_id: int
    context_length: int
    logit_scale: float
    carriers: tuple[str, ...] = ()
    reads_last: bool = False
    causal: bool = False
    own_preprocess: str = CLIP_RESIZE
    token_tower: Callable[[Tensor], Tensor] | None = None
    vision_width: int = 0
    tokenizer_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer_sha256 = self._check_tokens()

    @property
    def remarks(self) -> tuple[str, ...]:
        if self.own_preprocess == CLIP_RESIZE:
            return ()
        return (
            f"{self.name} was trained on pictures that were resized otherwise "
            f"({self.own_preprocess}) than the protocol does ({CLIP_RESIZE})",
        )

    def _check_tokens(self) -> str:
        """Hold tokenizer, special tokens, placeholder and table of tokens to each other.

        Returns:
            sha256 of all that turns a text into rows of the table.

        Raises:
            CorruptData: they are not of one CLIP.
        """
        rows = self.tokenize(PROBES)
        wrong = f"the tokenizer of {self.name} does not fit its text tower: "
        table = self.token_embedding.num_embeddings
        if not 0 <= table - self.vocabulary < _UNUSED_ROWS:
            raise CorruptData(
                f"{wrong}it has {self.vocabulary:,} tokens, the tower's table has {table:,}"
            )
        if max(map(max, rows)) >= self.token_embedding.num_embeddings or min(map(min, rows)) < 0:
            raise CorruptData(
                f"{wrong}it gives token {max(map(max, rows))}, the tower's table has "
                f"{self.token_embedding.num_embeddings}"
            )
        for row in rows if not self.reads_last else ():
            read = max(row) if self.end_of_text is None else self.end_of_text
            if [i for i, token in enumerate(row) if token == read] != [len(row) - 1]:
                raise CorruptData(f"{wrong}a text must end in the token {read}, got {row[-1]}")
        marks, placeholder = self.tokenize(["", "*"])
        inner = find_inner(self.tokenize, "*")
        plain = len(inner) == 1 and inner[0] not in {*marks, self.pad_id}
        if len(set(marks)) < len(marks) or not (plain or self.carriers):
            raise CorruptData(f"{wrong}* must be one token between start and end of text")
        if len(set(map(tuple, rows))) < len(rows):
            raise CorruptData(f"{wrong}different texts must have different tokens")
        said = (self.tokenizer_content, self.pad_id, self.context_length, placeholder, rows)
        return hashlib.sha256(repr(said).encode()).hexdigest()

    @property
    def token_width(self) -> int:
        return self.token_embedding.embedding_dim

    def encode_image_tokens(self, pixels: Tensor) -> Tensor:
        assert self.token_tower is not None  # vision_width says whether there is one
        return self._encode_pixels(self.token_tower, pixels)

    def embed_word(self, word: str) -> Tensor:
        ids = find_inner(self.tokenize, word)
        if len(ids) != 1:
            raise UsageError(f"{word!r} must be one token of {self.name}, it is {len(ids)}")
        return self.token_embedding.weight[ids[0]].float()

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        return self._encode_by_length(
            self._tokenize_rows(texts, truncate), lambda _, ids: self.text_tower(ids)
        )

    def encode_prompts(
        self,
        prompts: Sequence[str],
        words: Tensor,
        *,
        placeholder: str = "*",
        truncate: bool = False,
        every: bool = False,
    ) -> Tensor:
        if words.dim() == 2:
            words = words.unsqueeze(1)
        count = None if every else words.shape[1]
        rows, places = self._find_places(prompts, placeholder, truncate, count)

        def encode(part: Tensor, ids: Tensor) -> Tensor:
            chosen = [places[i] for i in part.tolist()]
            with substitute_embeddings(self.token_embedding, chosen, words[part.to(words.device)]):
                return self.text_tower(ids)

        return self._encode_by_length(rows, encode)

    def _find_places(
        self, prompts: Sequence[str], placeholder: str, truncate: bool, count: int | None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of each prompt, and the places of its first `count` placeholders; None: all."""
        if not self.carriers:
            rows = self._tokenize_rows(prompts, truncate)
            [own] = find_inner(self.tokenize, placeholder)
            return rows, find_placeholders(rows, own, prompts, count)
        star = re.compile(rf"(?<!\S){re.escape(placeholder)}(?!\S)")
        carried = [[star.sub(word, p, count or 0) for p in prompts] for word in self.carriers]
        rows, others = (self._tokenize_rows(texts, truncate, prompts) for texts in carried)
        differ = [
            [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
            for one, other in zip(rows, others, strict=True)
        ]
        return rows, check_places(differ, prompts, count)

    def _tokenize_rows(
        self, texts: Sequence[str], truncate: bool, told: Sequence[str] | None = None
    ) -> list[list[int]]:
        """Token ids of each text; a cut one keeps its end-of-text token.

        Args:
            told: what a person wrote instead of the texts.
        """
        rows = self.tokenize(texts)
        if not truncate:
            check_context([len(row) for row in rows], told or texts, self.context_length)
        most = self.context_length
        return [row if len(row) <= most else [*row[: most - 1], row[-1]] for row in rows]

    def _encode_by_length(
        self, rows: Sequence[Sequence[int]], encode: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Encode texts of about one length at a time → (B, C) float32.

        A text's padding depends on itself alone, so its embedding does not on its neighbours'
        lengths.

        Args:
            encode: (P,) places in `rows` and their (P, L) padded ids → (P, C).
        """
        places: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            places.setdefault(self._pad_length(len(row)), []).append(i)
        found = [torch.empty(0, self.embedding_width, device=self.device)]
        with self._set_arithmetic():
            for length, part in places.items():
                padded = [[*rows[i], *[self.pad_id] * (length - len(rows[i]))] for i in part]
                ids = torch.tensor(padded, device=self.device)
                found.append(encode(torch.tensor(part), ids).float())
        order = torch.tensor([i for part in places.values() for i in part], dtype=torch.long)
        return torch.cat(found)[order.argsort()]

    def _pad_length(self, tokens: int) -> int:
        whole = self.context_length
        return min(whole, -(-tokens // _LENGTHS) * _LENGTHS) if self.causal else whole
