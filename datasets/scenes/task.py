"""Task `scenes`: object composition. An emoji, and the names of what is around it.

COCO in kind (Saito et al., CVPR 2023, section 4.2; see `coco`): the query is the drawing of one
object alone, as a cut-out object is, and names; the one positive is the scene that shows this
drawing and what is named. The gallery has look-alikes of each: the same others beside the object in
another drawing, and beside another object.

Protocol `others` gives the names of the others alone, so that only the picture says what the object
is; `pic2word` gives the object's own name too, as the released evaluation of COCO does.

A scene is composed when it is read, of emoji that the task `emoji` holds out as well: what may be
trained on is its rule (`EmojiPicture.held_out`), and its CLIP may be run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.lessons import Lessons
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, Query, Selection, TaskData, Triplet
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.datasets.emoji.pictures import PACK
from cirbench.datasets.emoji.task import Emoji
from cirbench.datasets.scenes.captions import SceneLessons
from cirbench.datasets.scenes.pictures import (
    SCENES,
    Scene,
    read_scenes,
    read_training_pictures,
)

OTHERS = EvaluationProtocol(
    name="others",
    version=1,
    gallery="every scene of the split",
    reference="the drawing of one object alone",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "a photo of {others}", "pseudo-word": "a photo of * and {others}"},
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100"),
    headline="R@10",
)
PIC2WORD = replace(
    OTHERS,
    name="pic2word",
    templates={
        "text": "a photo of {query_class} and {others}",
        "pseudo-word": "a photo of * and {query_class} and {others}",
    },
)


class Scenes(Task):
    """600 test (300 val) queries against 1,789 (890) scenes."""

    name: ClassVar[str] = "scenes"
    follows: ClassVar[str] = "coco"
    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    default_backbone: ClassVar[str] = "scenes-clip"
    credit: ClassVar[str] = Emoji.credit
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        protocol.name: protocol for protocol in (OTHERS, PIC2WORD)
    }
    selection: ClassVar[Selection] = Selection(split="val", protocol=OTHERS, metrics=("R@10",))

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        scenes = [scene for scene in read_scenes() if scene.split == split]
        queries = [
            Query(
                id=scene.ref.id,
                reference=scene.objects[0].picture.ref,
                positives=(row,),
                group=_name_group(scene),
                fields=_list_fields(scene),
            )
            for row, scene in enumerate(scenes)
            if scene.asked
        ]
        return TaskData(
            gallery=tuple(scene.ref for scene in scenes),
            queries=tuple(sorted(queries, key=lambda query: query.group)),
            annotations={**PACK.hash_table(), SCENES.name: sha256_of_file(SCENES)},
        )

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        return [
            Triplet(
                reference=scene.objects[0].picture.ref,
                target=scene.ref,
                captions=(OTHERS.text("text", "", _list_fields(scene)),),
                group=_name_group(scene),
                fields=(_list_fields(scene),),
            )
            for scene in read_scenes()
            if scene.split == "train"
        ]

    def lessons(self, *, data_root: Path | None) -> Lessons:
        return SceneLessons()

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        return [picture.ref for picture in read_training_pictures()]


def _name_group(scene: Scene) -> str:
    return f"{len(scene.objects)} objects"


def _list_fields(scene: Scene) -> Mapping[str, str]:
    own, *others = scene.names
    return {"query_class": own, "others": " and ".join(others)}
