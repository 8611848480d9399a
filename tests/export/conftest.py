"""A small task with all that makes exports hard, and a record of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from making import make_body, make_cell, make_counts

from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.api import registry
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.ranking.parts import RankRequest
from cirbench.benchmark.ranking.rank import rank_vectors
from cirbench.benchmark.records.record import write_record
from cirbench.benchmark.report import pictures
from cirbench.benchmark.scoring.summary import score, summarise

PICTURES, QUERIES = 40, 30
PROTOCOL = EvaluationProtocol(
    name="captions",
    version=1,
    gallery="all",
    reference_removed=True,
    preprocess="clip",
    templates={"text": "{caption}"},
    metrics=("R@1", "R@5", "R@50", "HR@5", "mAP@5", "mAP@50", "Rs@1", "(R@5+Rs@1)/2"),
    headline="mAP@5",
)


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Ids with spaces, % and doublets, many equal scores, no to five positives a query."""
    rng = np.random.default_rng(0)
    names = [f"photo {i} 100%" for i in range(PICTURES - 1)]
    refs = tuple(ImageRef(id=name, read=bytes) for name in [*names, names[0]])
    queries = tuple(
        Query(
            id=f"q {i}",
            reference=refs[i],
            positives=tuple(rng.permutation(PICTURES - 1)[: i % 6].tolist()),
            group=("shirts", "<hats>")[i % 2],
            fields={"caption": f"the owner's caption {i}"},
            removed=PICTURES - 1,
            members=(3, 4, 5),
        )
        for i in range(QUERIES)
    )
    data = TaskData(gallery=refs, queries=queries, annotations={"captions.json": "a" * 64})

    class Theirs(Task):
        name: ClassVar = "theirs"
        splits: ClassVar = ("val",)
        default_backbone: ClassVar = "fake"
        protocols: ClassVar = {"captions": PROTOCOL}

        def load(self, **_):
            return data

    for module in (pictures, registry):
        monkeypatch.setattr(module, "find_task", lambda _: Theirs)
    corners = torch.tensor(rng.choice([-0.5, 0.5], (PICTURES + QUERIES, 4)), dtype=torch.float32)
    asked = RankRequest(
        depth=50,
        positives=[query.positives for query in queries],
        removed=[query.removed for query in queries],
        members=[query.members for query in queries],
    )
    arrays = score(data, rank_vectors(corners[PICTURES:], corners[:PICTURES], asked), PROTOCOL)

    def write(**parts):
        body = make_body(
            make_cell(PROTOCOL, task="theirs", split="val", method=parts.pop("method", "m")),
            PROTOCOL,
            summarise(arrays, data.groups, PROTOCOL),
            data.groups,
            counts=make_counts(QUERIES, QUERIES, PICTURES),
            **parts,
        )
        return write_record(tmp_path / "results", body, arrays)

    write()
    return SimpleNamespace(
        root=tmp_path / "results",
        data=data,
        arrays=arrays,
        write=write,
        boards=lambda: read_boards(tmp_path / "results"),
    )
