"""A task from files that a person has.

Pictures (a folder, an archive, tables with their bytes), rows of reference, text and targets (JSON
Lines, CSV, and the layouts that data sets of this field are passed on in), and a TOML file that
says how they are evaluated. Its protocol is hashed like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Place, Task
from cirbench.benchmark.api.values import ImageRef, Selection, TaskData, Triplet
from cirbench.benchmark.data.annotations import check_none_missing
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.paths import to_text
from cirbench.datasets.own.description import Description, list_places, read_description
from cirbench.datasets.own.load import load_split, name_pictures
from cirbench.datasets.own.pictures import open_pictures
from cirbench.datasets.own.rows import read_all


class OwnTask(Task):
    """What all tasks from files share; `read_task` makes the class of one."""

    description: ClassVar[Description]

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        return load_split(self.description.splits[split], self.description.fields, protocol)

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        train = self.description.train
        if train is None or not train.queries:
            raise MissingData(f"{self.name} has no triplets; name queries in [train]")
        rows = read_all(train.queries, self.description.fields)
        found = name_pictures(open_pictures(train.pictures), rows)
        check_none_missing("training images", found.missing)
        triplets = []
        for row in rows:
            target = row.target or row.targets[0]
            triplets.append(
                Triplet(
                    reference=found.refs[row.reference],
                    target=found.refs[target],
                    captions=row.captions,
                    group=row.group,
                    fields=row.fields,
                    equals=tuple(found.refs[name] for name in row.targets if name != target),
                )
            )
        return triplets

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        """Every picture that [train] names a place for, else those of its triplets."""
        train = self.description.train
        if train is None:
            return super().training_images(data_root=data_root)
        if train.whole:
            return list(open_pictures(train.pictures).refs.values())
        used = [
            ref
            for triplet in self.triplets(data_root=data_root)
            for ref in (triplet.reference, triplet.target, *triplet.equals)
        ]
        return list({ref.id: ref for ref in used}.values())


def read_task(path: Path) -> type[OwnTask]:
    """The class of the task that a TOML file or a folder describes; no table is read yet.

    Raises:
        MissingData, UsageError: as `read_description`.
    """
    found = read_description(path)
    select_on = found.train.select_on if found.train else ""
    return type(
        "OwnTask",
        (OwnTask,),
        {
            "__doc__": f"A task from files, {to_text(path)}.",
            "description": found,
            "name": found.name,
            "title": found.title or found.name,
            "credit": found.credit,
            "splits": tuple(found.splits),
            "default_backbone": found.backbone,
            "protocols": {found.protocol.name: found.protocol},
            "places": tuple(
                Place(name=name, candidates=(str(where.absolute()),))
                for name, where in list_places(found)
            ),
            "how_to_get": f"Its files are those that {to_text(path)} names.",
            "selection": Selection(
                split=select_on, protocol=found.protocol, metrics=(found.protocol.headline,)
            )
            if select_on
            else None,
        },
    )
