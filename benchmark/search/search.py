"""Free search: pictures and a text in, the best of a gallery out, by any registered method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import find_method, find_task, is_task, needs_checkpoint, tasks
from cirbench.benchmark.api.values import ImageRef, Mode
from cirbench.benchmark.embedding.pictures import (
    BatchSize,
    Embedder,
    ImageFeatures,
    Way,
    embed_with,
    make_way,
    read_pixels,
    read_tokens,
)
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.released import is_released_name, read_weights
from cirbench.benchmark.evaluation.run import make_gallery
from cirbench.benchmark.evaluation.weights import (
    find_backbone_of,
    find_weights,
    shipped_checkpoints,
)
from cirbench.benchmark.images.reading import (
    EncodedPicture,
    Say,
    find_deep_greys,
    find_images_in_folder,
    prefetch,
)
from cirbench.benchmark.ranking.parts import RankRequest
from cirbench.benchmark.ranking.rank import rank_vectors
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file
from cirbench.benchmark.runtime.paths import to_text
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.search.query import FreeQuery

DEFAULT_BACKBONE = "emoji-clip"
PROTOCOL = EvaluationProtocol(
    name="search",
    version=1,
    gallery="what is searched",
    reference_removed=False,
    preprocess="clip",
    metrics=("R@1",),
    headline="R@1",
    templates={"text": "{text}", "pseudo-word": "{prompt}", "that": "{prompt}"},
)
"""Of its fields only the preprocessing, the templates and the sum rule matter to a search."""
_BATCH_SIZE = 64
_NAMED = 20


def find_gallery(
    name: str, data_root: Path | None, say: Say
) -> tuple[tuple[ImageRef, ...], str | None]:
    """The distinct pictures of a task or below a folder, and the task's own backbone.

    Args:
        say: is told what of a folder was skipped.

    Raises:
        UsageError: it is neither.
        MissingData, CorruptData: as the task or the folder says.
    """
    if is_task(name):
        task = find_task(name)()
        protocol = next(iter(task.protocols.values()))
        data = task.load(protocol=protocol, split=task.splits[0], data_root=data_root)
        return tuple({ref.id: ref for ref in data.gallery}.values()), task.default_backbone
    if not name or not Path(name).is_dir():
        known = ", ".join(tasks())
        raise UsageError(f"--gallery {to_text(name)} must be a folder, or a task of {known}")
    return find_images_in_folder(Path(name), say), None


def choose_backbone(
    wanted: str | None,
    of_gallery: str | None,
    methods: Sequence[str],
    checkpoint: Path | None = None,
) -> str:
    """The backbone asked for, else that of the weights, else the gallery's task's, else the
    embedded one where a method needs no weights or ships some for it.

    Raises:
        UsageError: there is none of these.
    """
    of_weights = find_backbone_of(wanted, [checkpoint] if checkpoint else [])
    if chosen := of_weights or of_gallery:
        return chosen
    if any(
        DEFAULT_BACKBONE in shipped_checkpoints(method) or not needs_checkpoint(method)
        for method in methods
    ):
        return DEFAULT_BACKBONE
    raise UsageError(
        f"searching a folder with {', '.join(methods)} needs --backbone; bench ls backbones lists "
        "them"
    )


def check_checkpoint(checkpoint: Path | None, methods: Sequence[str]) -> None:
    """Find out before any weights are loaded that a file can't be those of the methods.

    Raises:
        UsageError: none of them takes weights.
        MissingData: there is no such file.
    """
    if checkpoint is None:
        return
    if not any(map(needs_checkpoint, methods)):
        raise UsageError(
            f"--checkpoint must go with a method that takes weights, got {', '.join(methods)}"
        )
    if not is_released_name(checkpoint):
        check_is_file(checkpoint, "checkpoint")


def build_method(
    method: str,
    backbone: Backbone,
    name: str,
    checkpoint: Path | None,
    reporter: Reporter | None = None,
) -> Method:
    """A method with its weights for the backbone of that name.

    Args:
        reporter: told of released weights that are fetched; without one none are.

    Raises:
        MissingData, CorruptData: its weights are not there, or don't fit.
    """
    found = find_weights(method, name, {method: checkpoint} if checkpoint else {})
    kind: type[Method] = find_method(method)
    checkpoint_read = read_weights(found, reporter) if found else None
    return kind.build(backbone=backbone, checkpoint=checkpoint_read)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A gallery to search.

    Attributes:
        features: (N, C) float32, not normalised.
        unreadable: id → what is wrong, of the pictures that were left out.
        deep_greys: ids of pictures whose greys beyond 8 bits are lost.
    """

    pictures: tuple[ImageRef, ...]
    features: Tensor
    unreadable: Mapping[str, str] = field(default_factory=dict)
    deep_greys: Sequence[str] = ()


def embed_pictures(
    backbone: Backbone, refs: Sequence[ImageRef], mode: Mode, *, workers: int, reporter: Reporter
) -> ImageFeatures:
    """Embed pictures of a search: a gallery through the store, queries without, so that nothing of
    an uploaded picture is ever written.

    Raises:
        MissingData, CorruptData: a picture can't be read.
    """
    with reporter.stage("images", len(refs)) as stage:
        embedder = Embedder(
            backbone=backbone,
            preprocess=PROTOCOL.preprocess,
            size=BatchSize(value=_BATCH_SIZE),
            workers=workers,
            stage=stage,
        )
        return embed_with([embedder], refs, mode, reporter)[0]


def open_gallery(
    backbone: Backbone,
    refs: Sequence[ImageRef],
    *,
    skip_unreadable: bool,
    workers: int,
    reporter: Reporter,
) -> Gallery:
    """Embed a gallery; where a picture can't be read, look for all such pictures.

    Raises:
        CorruptData: some can't be read and are not to be skipped, or none can; names them.
    """
    bad: dict[str, str] = {}
    try:
        features = embed_pictures(backbone, refs, Mode.USE, workers=workers, reporter=reporter)
    except (MissingData, CorruptData) as error:
        bad = find_unreadable(refs, make_way(backbone, PROTOCOL.preprocess), workers)
        if not bad:
            raise
        if not skip_unreadable or len(bad) == len(refs):
            raise CorruptData(_describe_unreadable(bad, len(refs))) from error
        refs = [ref for ref in refs if ref.id not in bad]
        features = embed_pictures(backbone, refs, Mode.USE, workers=workers, reporter=reporter)
    return Gallery(
        pictures=tuple(refs),
        features=features.of(refs),
        unreadable=bad,
        deep_greys=find_deep_greys(refs),
    )


def find_unreadable(refs: Sequence[ImageRef], way: Way, workers: int) -> dict[str, str]:
    """Id → what is wrong, of the pictures that can't be read or decoded."""

    def fault(ref: ImageRef) -> str:
        try:
            way(EncodedPicture(ref.read()))
        except (CirbenchError, OSError, ValueError) as error:
            return str(error)
        return ""

    jobs = (partial(fault, ref) for ref in refs)
    faults = prefetch(jobs, workers=workers, ahead=2 * _BATCH_SIZE)
    return {ref.id: why for ref, why in zip(refs, faults, strict=True) if why}


def name_unreadable(bad: Mapping[str, str]) -> str:
    """Name the first unreadable pictures by reason, and how many more there are."""
    names: dict[str, list[str]] = {}
    for name, why in list(bad.items())[:_NAMED]:
        names.setdefault(why, []).append(name)
    named = ", ".join(f"{', '.join(some)} ({why})" for why, some in names.items())
    return named + (f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")


def _describe_unreadable(bad: Mapping[str, str], count: int) -> str:
    return (
        f"{len(bad)} of {count:,} gallery pictures cannot be read: {name_unreadable(bad)}; repair "
        "or remove them, or pass --skip-unreadable to leave them out"
    )


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A picture of the gallery, its rank from 1, and its cosine with the composed query."""

    rank: int
    similarity: float
    picture: ImageRef


@dataclass(frozen=True, kw_only=True)
class _OneQuery:
    """The `Queries` seam over one free query. Its P pictures are P rows, so that a method may map
    each to a word; a text is one row, whatever the number of pictures."""

    query: FreeQuery
    images: Tensor  # (P, C) float32
    encoder: TextFeatures
    workers: int
    protocol: EvaluationProtocol = PROTOCOL

    @property
    def reference_features(self) -> Tensor:
        self._check_pictures()
        return self.images

    @property
    def reference_pixels(self) -> Tensor:
        self._check_pictures()
        preprocess = self.protocol.preprocess
        return read_pixels(self.query.images, preprocess, self.encoder.backbone, self.workers)

    @property
    def reference_tokens(self) -> Tensor:
        self._check_pictures()
        preprocess = self.protocol.preprocess
        return read_tokens(self.query.images, preprocess, self.encoder.backbone, self.workers)

    def _check_pictures(self) -> None:
        if not self.query.images:
            raise UsageError("this method needs a picture")

    def text_features(self, family: str = "text") -> Tensor:
        return self.encoder.of(self.texts(family))

    def prompt_features(self, words: Tensor, family: str = "pseudo-word") -> Tensor:
        return self.encoder.backbone.encode_prompts(self.texts(family), words.unsqueeze(0))

    def texts(self, family: str = "text") -> list[str]:
        fields = {"text": self.query.text, "prompt": self.query.prompt}
        text = self.protocol.text(family, "all", fields)
        if not text:
            raise UsageError("this method needs a text besides its placeholders")
        return [text]


@dataclass(frozen=True, kw_only=True)
class Searcher:
    """A backbone and a gallery, ready for queries."""

    backbone: Backbone
    gallery: Gallery
    workers: int = 2
    _galleries: dict[Method | None, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def texts(self) -> TextFeatures:
        """Embeddings of texts, kept for all queries and methods."""
        return TextFeatures(backbone=self.backbone, truncate=False)

    def embed(self, query: FreeQuery) -> Tensor:
        """(P, C) float32 embeddings of the query's pictures.

        Raises:
            CorruptData: one can't be decoded.
        """
        if not query.images:
            return torch.empty(0, self.backbone.embedding_width)
        features = embed_pictures(
            self.backbone,
            query.images,
            Mode.OFF,
            workers=self.workers,
            reporter=Reporter(quiet=True),
        )
        return features.of(query.images).to(self.backbone.device)

    def find(self, method: Method, query: FreeQuery, images: Tensor, top: int) -> list[Hit]:
        """The best of the gallery by one method; `images` is what `embed` gave.

        Raises:
            UsageError: the method has no use for such a query.
            CorruptData: it composed no unit vector.
        """
        with torch.inference_mode():
            view = _OneQuery(query=query, images=images, encoder=self.texts, workers=self.workers)
            vector = method.compose(view).float().cpu()
            gallery = self._rank_vectors_of(method)
        if len(vector) != 1:
            raise UsageError(
                f"{method.name} takes one picture a query, got {len(query.images)}; only methods "
                "of prompts take several"
            )
        if not method.own_score and not abs(float(vector.norm()) - 1) < 1e-3:
            raise CorruptData(
                f"{method.name} must compose a vector of unit length, and did not; "
                "check its checkpoint"
            )
        count = len(gallery)
        wanted = RankRequest(depth=min(top, count), positives=[()])
        found = rank_vectors(vector, gallery, wanted, method.own_score)
        pairs = zip(found.top[0], found.similarity[0], strict=True)
        return [
            Hit(rank=i, similarity=float(similarity), picture=self.gallery.pictures[row])
            for i, (row, similarity) in enumerate(pairs, start=1)
        ]

    def _rank_vectors_of(self, method: Method) -> Tensor:
        """(N, D) of the gallery as the method wants it ranked, made once."""
        owner = None if type(method).gallery is Method.gallery else method
        if owner not in self._galleries:
            self._galleries[owner] = make_gallery(method, self.gallery.features, "cpu")
        return self._galleries[owner]


def as_dict(query: FreeQuery, hits: Sequence[Hit]) -> dict[str, Any]:
    """Plain data, for --json."""
    return {
        "images": [image.id for image in query.images],
        "text": query.prompt,
        "results": [
            {
                "rank": hit.rank,
                "similarity": hit.similarity,
                "path": hit.picture.id,
                "title": hit.picture.title,
            }
            for hit in hits
        ],
    }
