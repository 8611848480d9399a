"""Records as tables of pandas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cirbench.benchmark.records.record import Record
from cirbench.benchmark.scoring.summary import read_scored

if TYPE_CHECKING:
    import pandas as pd

_NAMES = ("task", "protocol", "method", "backbone", "seed")


class RecordList(list[Record]):
    """Records of evaluations, in a list that knows how to become a table.

    Examples:
        >>> import cirbench
        >>> records = cirbench.evaluate("text-only", "emoji", backbone="fake", limit=2)
        >>> records.per_query().groupby("group").size().tolist()
        [2, 2, 2, 2]
    """

    def to_frame(self) -> pd.DataFrame:
        """Give every metric of every record.

        Returns:
            A row a metric and group, under the record's file name: task, protocol, method,
            backbone, seed, group (or average), metric, value, low, high (percent, with a 95 %
            interval) and n, the number of queries.
        """
        return _frame(row for record in self for row in _metric_rows(record))

    def per_query(self) -> pd.DataFrame:
        """Give every query of every record.

        Returns:
            A row a query, under the record's file name: task, protocol, method, backbone, seed,
            group, query, reference, first_rank (of the best-ranked positive, 0 where it has none),
            tied, and a column for each metric, in percent.

        Raises:
            CorruptData: a record's per-query data is missing or altered.
        """
        import pandas as pd  # a third of a second, for whoever asks for a table

        parts = [_query_frame(record) for record in self]
        return pd.concat(parts) if parts else _frame(())


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = ["record", *_NAMES, "group", "metric", "value", "low", "high", "n"]
    return pd.DataFrame(list(rows), columns=columns).set_index("record")


def _names(record: Record) -> dict[str, Any]:
    names = {name: getattr(record.cell, name) for name in _NAMES}
    shown = {"task": record.task_label, "protocol": record.protocol.name}
    return {"record": record.path.stem, **names, **shown}


def _metric_rows(record: Record) -> Iterator[dict[str, Any]]:
    for group, metrics in record.metrics.items():
        for metric, interval in metrics.items():
            yield {**_names(record), "group": group, "metric": metric, **vars(interval)}


def _query_frame(record: Record) -> pd.DataFrame:
    import pandas as pd

    found = record.read_per_query()
    columns = {
        **_names(record),
        "group": found.group,
        "query": found.query,
        "reference": found.reference,
        "first_rank": found.first_rank,
        "tied": found.tied,
        **dict(zip(found.metrics.tolist(), found.values.T, strict=True)),
    }
    return pd.DataFrame(columns).set_index("record")


def read_records(folder: str | Path) -> RecordList:
    """Read every whole record of a results folder, held to its per-query data.

    Raises:
        CorruptData: a record was edited or cut, or is a copy of another.

    Examples:
        >>> import cirbench
        >>> frame = cirbench.read_records("results").to_frame()
        >>> sorted(frame.method.unique())[:2]
        ['artemis', 'cirplant']
    """
    return RecordList(read_scored(Path(folder)))
