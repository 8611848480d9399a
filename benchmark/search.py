"""`bench search`: any method on one's own pictures and words.

A search is a task made for the occasion: the folder is the gallery, each picture with its text a
query without positives, and the protocol's templates hand the text through. For methods of plain
text the placeholder is taken out, as Pic2Word's text-only row does.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch.nn.functional import normalize

from cirbench.benchmark.compose import TextFeatures, compose
from cirbench.benchmark.embed import BatchSize, ImageFeatures
from cirbench.benchmark.errors import UsageError
from cirbench.benchmark.images import file_ref, images_in_folder
from cirbench.benchmark.interfaces import ImageRef, Method, Query, Task, TaskData
from cirbench.benchmark.plan import Plan, Request, checkpoint_path, choose_device
from cirbench.benchmark.progress import Reporter
from cirbench.benchmark.protocol import EvaluationProtocol
from cirbench.benchmark.ranking import dot_product, top_k
from cirbench.benchmark.registry import find_method, find_task, tasks
from cirbench.benchmark.report.pictures import thumbnail

PROTOCOL = EvaluationProtocol(
    name="search",
    version=1,
    gallery="the folder",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "{plain}", "caption": "{plain}", "pseudo-word": "{text}", "that": "{text}"},
    metrics=("R@1",),
    headline="R@1",
)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A gallery picture at its rank, with its similarity to the query."""

    rank: int
    picture: ImageRef
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one method finds for one picture and text, best first."""

    method: str
    image: ImageRef
    text: str
    hits: tuple[Hit, ...]


def gallery_of(source: str) -> tuple[ImageRef, ...]:
    """The pictures of a folder, or of an embedded task.

    Raises:
        MissingData: there is no such folder, or no picture in it.
    """
    if not Path(source).is_dir() and source in tasks():
        task: Task = find_task(source)()
        protocol = next(iter(task.protocols.values()))
        return task.load(protocol=protocol, split=task.splits[0], data_root=None).gallery
    return images_in_folder(Path(source))


def queries_of(images: Sequence[Path], texts: Sequence[str]) -> tuple[Query, ...]:
    """Pictures and texts in pairs; a single one of either goes with all of the other.

    Raises:
        UsageError: their numbers do not match.
    """
    count = max(len(images), len(texts))
    if not {len(images), len(texts)} <= {1, count}:
        raise UsageError(
            f"{len(images)} images and {len(texts)} texts; give as many of both, or one of either"
        )
    pairs = zip(
        images if len(images) == count else list(images) * count,
        texts if len(texts) == count else list(texts) * count,
        strict=True,
    )
    return tuple(
        Query(
            id=f"{path}: {text}",
            reference=file_ref(path, f"query {path}"),
            positives=(),
            fields={"text": text, "plain": " ".join(w for w in text.split() if w != "*")},
        )
        for path, text in pairs
    )


def plan_search(
    request: Request, gallery: tuple[ImageRef, ...], queries: tuple[Query, ...]
) -> Plan:
    """The search as the harness's own plan; its task is never asked for annotations.

    Raises:
        MissingData: a method's weights are not there.
    """
    backbone = request.backbone or find_task("emoji").default_backbone
    for name in request.methods:
        checkpoint_path(find_method(name), backbone, request.checkpoints)
    return Plan(
        request=request, methods=request.methods, task=find_task("emoji")(), split="test",
        protocol=PROTOCOL, backbone=backbone, device=choose_device(request.device),
        data=TaskData(gallery=gallery, queries=queries, annotations={}),
    )  # fmt: skip


def search(plan: Plan, top: int, reporter: Reporter) -> list[Answer]:
    """The answers of every method of the plan to every query.

    Raises:
        MissingData, CorruptData: a picture can't be read; the message names it.
    """
    from cirbench.benchmark.backbones import load_backbone
    from cirbench.benchmark.run import embed, load_method

    backbone = load_backbone(plan.backbone, device=plan.device, precision=plan.request.precision)
    methods = [load_method(find_method(name), backbone, plan)[0] for name in plan.methods]
    images = embed(plan, backbone, reporter)
    texts = TextFeatures(backbone=backbone, truncate=False)
    return [answer for method in methods for answer in answers(plan, method, images, texts, top)]


def answers(
    plan: Plan, method: Method, images: ImageFeatures, texts: TextFeatures, top: int
) -> list[Answer]:
    """One method's answers; the ranking is the harness's own, exact and in float32."""
    data, quiet = plan.data, Reporter(quiet=True)
    size = BatchSize(value=plan.request.batch_size)
    with quiet.stage(method.name, len(data.queries)) as stage:
        vectors = compose(method, data.queries, PROTOCOL, images, texts, size=size, stage=stage)
    gallery = normalize(images.of(data.gallery), dim=1)
    with torch.inference_mode():
        scores = dot_product(vectors, gallery)(slice(0, len(vectors)))
        similarity, rows = top_k(scores, min(top, len(gallery)))
    return [
        Answer(
            method=method.name,
            image=query.reference,
            text=query.fields["text"],
            hits=tuple(
                Hit(rank=rank, picture=data.gallery[row], similarity=float(value))
                for rank, (row, value) in enumerate(zip(found, values, strict=True), start=1)
            ),
        )
        for query, found, values in zip(
            data.queries, rows.tolist(), similarity.tolist(), strict=True
        )
    ]


def as_html(found: Sequence[Answer]) -> str:
    """A page of its own, with thumbnails; opens from disk, asks no other host."""
    made = Environment(
        loader=PackageLoader("cirbench.benchmark.report"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return made.get_template("search.html").render(answers=found, thumbnail=thumbnail)


def as_png(found: Sequence[Answer], side: int = 96) -> bytes:
    """A row an answer: the query's picture, a gap, the hits from left to right."""
    columns = max(len(answer.hits) for answer in found)
    sheet = Image.new("RGB", ((columns + 1) * side + side // 4, len(found) * side), "white")
    for i, answer in enumerate(found):
        pictures = [answer.image, *(hit.picture for hit in answer.hits)]
        for j, ref in enumerate(pictures):
            content = base64.b64decode(thumbnail(ref).partition(",")[2])
            with Image.open(io.BytesIO(content)) as opened:
                small = opened.convert("RGB").resize((side - 4, side - 4))
            sheet.paste(small, (j * side + (side // 4 if j else 0), i * side + 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
