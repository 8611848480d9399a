"""What answers the queries of a board: ids of pictures, which a record has of its hits alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.report.pictures import load_task_data
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.scoring.metrics import find_hits


def find_answers(board: Board, data_root: Path | None) -> Sequence[tuple[int, ...]]:
    """Find the gallery rows of each query's positives, in the order of the records' queries.

    Raises:
        UsageError, MissingData: the task's annotations can't be had, as `load_task_data`.
        CorruptData: they are not the ones that the records were scored with.
    """
    positives = [query.positives for query in load_task_data(board, data_root).queries]
    scored = board.per_query[0]
    counts = np.array([len(own) for own in positives], dtype=np.int64)
    if not (
        np.array_equal(counts, scored.positives)
        and np.array_equal(find_hits(scored.top, positives), scored.hits)
    ):
        raise CorruptData(
            f"{board.first.path} was scored with other answers than those that "
            f"{board.first.cell.task} has below --data-root; run its cells again"
        )
    return positives
