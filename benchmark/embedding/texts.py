"""Embeddings of texts and prompts, each distinct one once in all runs that share a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from copy import copy
from functools import cached_property, partial
from typing import Self

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.embedding.shard import SHARD_ROWS
from cirbench.benchmark.embedding.space import make_text_space
from cirbench.benchmark.embedding.store import Store
from cirbench.benchmark.runtime.kept import find_cache_root


class VectorCache:
    """An in-memory cache of vectors by name, optionally backed by the store.

    What is new goes to the store in whole shards, and the rest with `flush`.

    Args:
        opened: opens the store when the first vector is asked for.
    """

    def __init__(self, opened: Callable[[], Store] | None = None) -> None:
        self._opened = opened
        self._new: dict[str, Tensor] = {}

    @cached_property
    def _store(self) -> Store | None:
        store = self._opened() if self._opened else None
        if store and store.mode is Mode.REFRESH:
            store.forget_all()
        return store

    def of(self, names: Sequence[str], make: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """(len(names), C) float32 on the CPU; `make` gives those of some positions in `names`."""
        position = {name: i for i, name in enumerate(names)}
        found = self._find(position.keys() - self._new.keys())
        if lacking := [n for n in position if n not in found and n not in self._new]:
            made = make([position[name] for name in lacking]).float().cpu()
            self._new.update(zip(lacking, made, strict=True))
        rows = torch.stack([found[n] if n in found else self._new[n] for n in names])
        if len(self._new) >= SHARD_ROWS:
            self.flush()
        return rows

    @property
    def imported(self) -> Set[str]:
        """The names of those that were asked for and that another machine made."""
        store: Store | None = vars(self).get("_store")  # if it was opened
        return store.imported if store else frozenset()

    def flush(self) -> None:
        """Store what is new."""
        if self._new and self._store:
            self._store.add(list(self._new), torch.stack(list(self._new.values())))
            self._new.clear()

    def _find(self, names: Set[str]) -> dict[str, Tensor]:
        if self._store is None or not names:
            return {}
        there = list(names - set(self._store.find_missing(list(names))))
        return dict(zip(there, self._store.read_rows(there), strict=True)) if there else {}


class TextFeatures:
    """Embeddings of texts, for all methods of a run, and of one method's prompts.

    Args:
        truncate: cut what exceeds the context, or refuse it.
        mode: what is done with the store; off: each run has its own.
    """

    def __init__(self, *, backbone: Backbone, truncate: bool, mode: Mode = Mode.OFF) -> None:
        self.backbone, self.truncate, self.mode = backbone, truncate, mode
        self._texts = self._make_cache()
        self._prompts: VectorCache | None = None
        self._asked = set[str]()

    def for_method(self, checkpoint: str | None) -> Self:
        """Share the texts' embeddings with a method, whose prompts depend on its weights.

        Without a store they are not kept: no other method has the same pseudo-words.
        """
        own = copy(self)
        own._asked = set()
        stored = checkpoint and self.mode is not Mode.OFF
        own._prompts = self._make_cache(checkpoint) if stored else None
        return own

    def _make_cache(self, checkpoint: str | None = None) -> VectorCache:
        if self.mode is Mode.OFF:
            return VectorCache()
        space = make_text_space(self.backbone, truncate=self.truncate, checkpoint=checkpoint)
        return VectorCache(partial(Store, find_cache_root(), space, self.mode))

    def of(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), C) float32, not normalised."""

        def encode(rows: Sequence[int]) -> Tensor:
            return self.backbone.encode_texts([texts[i] for i in rows], truncate=self.truncate)

        names = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        self._asked.update(names)
        return self._texts.of(names, encode).to(self.backbone.device)

    def of_prompts(self, prompts: Sequence[str], words: Tensor) -> Tensor:
        """(len(prompts), C) float32; a prompt is found by its text and its pseudo-words' bits."""

        def encode(rows: Sequence[int]) -> Tensor:
            return self.backbone.encode_prompts(
                [prompts[i] for i in rows], words[list(rows)], truncate=self.truncate
            )

        if self._prompts is None:
            return encode(range(len(prompts)))
        names = [
            _hash_prompt(prompt, word) for prompt, word in zip(prompts, words.cpu(), strict=True)
        ]
        return self._prompts.of(names, encode).to(self.backbone.device)

    @property
    def imported(self) -> int:
        """How many of the texts and prompts that were asked for another machine made."""
        prompts = self._prompts.imported if self._prompts else ()
        return len(self._asked & self._texts.imported) + len(prompts)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for a record: how many vectors were made on another machine."""
        if not self.imported:
            return ()
        return (f"{self.imported:,} embeddings of texts were made on another machine and imported",)

    def flush(self) -> None:
        """Store what is new, at the end of a method."""
        for kept in (self._texts, self._prompts):
            if kept is not None:
                kept.flush()


def _hash_prompt(prompt: str, word: Tensor) -> str:
    return hashlib.sha256(prompt.encode() + b"\0" + word.numpy().tobytes()).hexdigest()
