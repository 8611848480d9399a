"""Hands queries to methods in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Query
from cirbench.benchmark.embedding.pictures import (
    BatchSize,
    ImageFeatures,
    read_pixels,
    read_tokens,
    work_in_batches,
)
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.runtime.errors import CorruptData, TextTooLong, UsageError
from cirbench.benchmark.runtime.progress import Stage


@dataclass(frozen=True, kw_only=True)
class QueryBatch:
    """The `Queries` seam over one slice of a task's queries.

    Attributes:
        workers: threads that read the references' pictures, if a method asks for them.
    """

    protocol: EvaluationProtocol
    queries: Sequence[Query]
    reference_features: Tensor
    encoder: TextFeatures
    workers: int = 2

    @property
    def reference_pixels(self) -> Tensor:
        refs = [query.reference for query in self.queries]
        preprocess = self.protocol.preprocess_of_references
        return read_pixels(refs, preprocess, self.encoder.backbone, self.workers)

    @property
    def reference_tokens(self) -> Tensor:
        refs = [query.reference for query in self.queries]
        preprocess = self.protocol.preprocess_of_references
        return read_tokens(refs, preprocess, self.encoder.backbone, self.workers)

    def text_features(self, family: str = "text") -> Tensor:
        with self._name_query(family):
            return self.encoder.of(self.texts(family))

    def prompt_features(self, words: Tensor, family: str = "pseudo-word") -> Tensor:
        with self._name_query(family):
            return self.encoder.of_prompts(self.texts(family), words)

    def texts(self, family: str = "text") -> list[str]:
        return [self.protocol.text(family, query.group, query.fields) for query in self.queries]

    @contextmanager
    def _name_query(self, family: str) -> Iterator[None]:
        """Adds to the refusal of a text whose it is."""
        try:
            yield
        except TextTooLong as error:
            query = self.queries[self.texts(family).index(error.text)]
            raise UsageError(f"query {query.id}: {error}") from error


def compose(
    method: Method,
    queries: Sequence[Query],
    protocol: EvaluationProtocol,
    images: ImageFeatures,
    texts: TextFeatures,
    *,
    size: BatchSize,
    workers: int,
    stage: Stage,
) -> Tensor:
    """Q queries → (Q, C) float32 unit vectors on the CPU; (Q, …) where the method scores them.

    Args:
        workers: threads that read the references' pictures, if the method asks for them.

    Raises:
        CorruptData: the method gave a vector that is not finite or not of unit length.
        MissingData, CorruptData: the method asked for pixels, and a picture can't be read.
    """

    def work(chunk: Sequence[Query]) -> Tensor:
        features = images.of_references([query.reference for query in chunk]).to(
            texts.backbone.device
        )
        batch = QueryBatch(
            protocol=protocol,
            queries=chunk,
            reference_features=features,
            encoder=texts,
            workers=workers,
        )
        return method.compose(batch).float().cpu()

    order = _sort_by_reference(queries) if method.reads_pictures else list(range(len(queries)))
    with torch.inference_mode():
        vectors = []
        for part in work_in_batches([queries[i] for i in order], size, work):
            vectors.append(part)
            stage.advance(len(part))
    composed = torch.cat(vectors)[torch.tensor(order).argsort()]
    _check_vectors(composed, method, queries)
    return composed


def _sort_by_reference(queries: Sequence[Query]) -> list[int]:
    """The places of the queries, those of one reference next to each other."""
    first: dict[str, int] = {}
    for i, query in enumerate(queries):
        first.setdefault(query.reference.id, i)
    return sorted(range(len(queries)), key=lambda i: first[queries[i].reference.id])


def _check_vectors(vectors: Tensor, method: Method, queries: Sequence[Query]) -> None:
    if method.own_score:
        off, rule = ~vectors.isfinite().flatten(1).all(dim=1), "finite"
    else:
        off, rule = ~((vectors.norm(dim=1) - 1).abs() < 1e-3), "of unit length"
    if off.any():
        first = int(off.nonzero()[0])
        raise CorruptData(
            f"{method.name} composed {int(off.sum())} of {len(vectors)} queries into vectors that "
            f"are not {rule}, the first for query {queries[first].id}; check its checkpoint"
        )
