"""Every Eval Ever, schema 0.3.0: a log of each record, and beside it a row a query and metric.

https://github.com/evaleval/every_eval_ever, whose repository has the folders that are made here:
data/TASK/DEVELOPER/MODEL/UUID.json and UUID_samples.jsonl. Ids stand for pictures and texts.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.api import registry
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.export.answers import find_answers
from cirbench.benchmark.export.origin import describe_origin
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole
from cirbench.benchmark.scoring.metrics import Metric, parse_metrics

SCHEMA = "0.3.0"
DEVELOPER = "cirbench"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Who hands the results on, and when.

    Attributes:
        name: the organization's, or a person's.
        time: seconds since 1970.
    """

    name: str
    time: int


@dataclass(frozen=True, kw_only=True)
class Log:
    """A record as an evaluation of Every Eval Ever."""

    record: Record
    provider: Provider

    @property
    def model(self) -> str:
        """Method, what it was trained on, and backbone."""
        return f"{slug(self.record.method_label)}--{slug(self.record.cell.backbone)}"

    @property
    def model_id(self) -> str:
        return f"{DEVELOPER}/{self.model}"

    @property
    def evaluation_id(self) -> str:
        _, _, cell = self.record.home.stem.rpartition("--")
        return f"{self.record.cell.task}-{cell}/{self.model_id}/{self.provider.time}"

    @property
    def path(self) -> PurePosixPath:
        """Of the log; the same record always has the same."""
        named = f"{self.record.home} {self.record.per_query.sha256}"
        name = uuid.UUID(bytes=hashlib.sha256(named.encode()).digest()[:16], version=4)
        return PurePosixPath("data", slug(self.record.cell.task), self.model_id, f"{name}.json")

    @property
    def samples_path(self) -> PurePosixPath:
        return self.path.with_name(f"{self.path.stem}_samples.jsonl")

    def name_result(self, row: str, metric: str) -> dict[str, str]:
        """Name the result of a group or average in a metric, as rows refer to it."""
        return {
            "evaluation_result_id": f"{row}/{metric}",
            "evaluation_name": f"{self.record.cell.task} ({row})",
        }


def write_every_eval(
    boards: Sequence[Board], folder: Path, data_root: Path | None, provider: Provider
) -> Iterator[Path]:
    """Write two files a record, both or neither, and yield their paths.

    Raises:
        UsageError, MissingData, CorruptData: as `find_answers`.
    """
    for board in boards:
        answers = find_answers(board, data_root)
        for record, arrays in zip(board.records, board.per_query, strict=True):
            log = Log(record=record, provider=provider)
            paths = folder / log.samples_path, folder / log.path
            with write_whole(paths[1]) as whole, write_whole(paths[0]) as samples:
                rows = _write_lines(samples, format_samples(log, arrays, answers))
                content = make_log(log, {"checksum": sha256_of_file(samples), "total_rows": rows})
                whole.write_text(f"{json.dumps(content, indent=2)}\n", encoding="ascii")
            yield from paths
        vars(board).pop("per_query")  # what the board has cached; a large task's is gigabytes


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines, and return how many there were."""
    count = 0
    with path.open("w", encoding="ascii", newline="\n") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count


def make_log(log: Log, samples: dict[str, Any]) -> dict[str, Any]:
    """Make the log of a record; `samples` says what its rows' file has."""
    record = log.record
    version = record.environment.packages.get("cirbench", "unknown")
    library = {"name": "cirbench", "version": version}
    source = _describe_source(record)
    return {
        "schema_version": SCHEMA,
        "evaluation_id": log.evaluation_id,
        "retrieved_timestamp": str(log.provider.time),
        "source_metadata": {
            "source_name": "cirbench",
            "source_type": "evaluation_run",
            "source_organization_name": log.provider.name,
            "evaluator_relationship": "other",
        },
        "eval_library": {
            **library,
            "additional_details": {
                "commit": record.environment.code.commit or "unknown",
                "origin": describe_origin(record),
            },
        },
        "model_info": {
            "name": f"{record.method_label}, {record.cell.backbone}",
            "id": log.model_id,
            "developer": DEVELOPER,
            **({} if record.imported else {"inference_engine": library}),
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                **_describe_model(record),
            },
        },
        "evaluation_results": [
            {
                **log.name_result(row, metric),
                "source_data": source,
                "metric_config": _describe_metric(record, metric),
                "score_details": {
                    "score": interval.value,
                    "uncertainty": _describe_uncertainty(record, interval),
                },
            }
            for row, values in record.metrics.items()
            for metric, interval in values.items()
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": str(log.samples_path),
            "hash_algorithm": "sha256",
            **samples,
        },
    }


def _describe_model(record: Record) -> dict[str, str]:
    cell = record.cell
    return {
        "method": cell.method,
        "trained_on": cell.trained_on or "nothing",
        "zero_shot": str(record.method.zero_shot).lower(),
        "backbone": cell.backbone,
        "weights_sha256": record.fingerprints.weights,
        "checkpoint_sha256": cell.checkpoint or "none",
        "seed": str(cell.seed),
    }


def _describe_source(record: Record) -> dict[str, Any]:
    cell, protocol = record.cell, record.protocol
    details = {
        "split": cell.split,
        "protocol": cell.protocol,
        "protocol_fields": json.dumps(protocol.as_dict(), sort_keys=True),
        "annotations_sha256": record.fingerprints.annotations,
        "gallery_sha256": record.fingerprints.gallery,
        "queries": str(record.counts.queries),
        "gallery": str(record.counts.gallery),
    }
    urls = [download.url for download in registry.find_task(cell.task).downloads]
    place: dict[str, Any] = (
        {"source_type": "url", "url": urls} if urls else {"source_type": "other"}
    )
    return {"dataset_name": cell.task, **place, "additional_details": details}


def _describe_metric(record: Record, name: str) -> dict[str, Any]:
    parts = parse_metrics(name)
    return {
        "evaluation_description": f"composed image retrieval, protocol {record.protocol.title}",
        "metric_id": f"cirbench.{name}",
        "metric_name": name,
        "metric_kind": " and ".join(part.kind for part in parts),
        "metric_unit": "percent",
        "metric_parameters": {f"k of {part.name}": part.k for part in parts},
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0,
        "max_score": 100,
    }


def _describe_uncertainty(record: Record, interval: Interval) -> dict[str, Any]:
    made = record.bootstrap
    return {
        "confidence_interval": {
            "lower": interval.low,
            "upper": interval.high,
            "confidence_level": made.level,
            "method": f"percentile bootstrap over the queries' {made.cluster}s, seed {made.seed}",
        },
        "num_samples": interval.n,
        "num_bootstrap_samples": made.resamples,
    }


def format_samples(log: Log, arrays: PerQuery, answers: Sequence[Sequence[int]]) -> Iterator[str]:
    """Give a line a query and metric, which refers to the result of the query's group.

    The output is what the metric looked at. Lines are put together of parts, each of which is made
    into JSON once: a record has ten thousand lines and more.
    """
    gallery = arrays.gallery.tolist()
    metrics = [(name, _find_depth(name)) for name in arrays.metrics.tolist()]
    heads = {
        (group, name): json.dumps(
            {
                "schema_version": SCHEMA,
                "evaluation_id": log.evaluation_id,
                "model_id": log.model_id,
                "interaction_type": "single_turn",
                **log.name_result(group, name),
            }
        )[1:-1]
        for group in dict.fromkeys(arrays.group.tolist())
        for name, _ in metrics
    }
    for number, group in enumerate(arrays.group.tolist()):
        sample = _describe_sample(arrays, number, [gallery[row] for row in answers[number]])
        shared = json.dumps(sample)[1:-1]
        ranked = {"top": _name(gallery, arrays.top[number]), "members": []}
        if len(arrays.members):
            ranked["members"] = _name(gallery, arrays.members[number])
        for (name, (kind, k)), value in zip(metrics, arrays.values[number].tolist(), strict=True):
            found = json.dumps({"output": {"raw": ranked[kind][:k]}})[1:-1]
            score = json.dumps({"evaluation": {"score": value, "is_correct": value > 0}})[1:-1]
            yield f"{{{heads[group, name]}, {found}, {score}, {shared}}}\n"


def _find_depth(name: str) -> tuple[str, int]:
    """Find what a metric looks at: "top" or, where all it looks at are members, "members"."""
    parts: Sequence[Metric] = parse_metrics(name)
    whole = [part for part in parts if not part.of_members]
    return "top" if whole else "members", max(part.k for part in whole or parts)


def _name(gallery: Sequence[str], rows: Any) -> list[str]:
    return [gallery[row] for row in rows.tolist() if row >= 0]


def _describe_sample(arrays: PerQuery, number: int, answers: Sequence[str]) -> dict[str, Any]:
    query, reference = str(arrays.query[number]), str(arrays.reference[number])
    raw = f"query {query}: picture {reference} and a text"
    first = arrays.top[number, 0] if arrays.top.shape[1] else -1
    return {
        "sample_id": query,
        "sample_hash": hashlib.sha256("".join([raw, *answers]).encode()).hexdigest(),
        "input": {"raw": raw, "reference": answers},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": str(arrays.gallery[first]) if first >= 0 else "",
                "extraction_method": "ranking",
                "is_terminal": True,
            }
        ],
        "metadata": {
            "group": str(arrays.group[number]),
            "reference": reference,
            "first_rank": str(arrays.first_rank[number]),
            "tied": str(bool(arrays.tied[number])).lower(),
        },
    }
