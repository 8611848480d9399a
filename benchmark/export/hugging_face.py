"""Hugging Face: a folder a model, with `.eval_results` and a model-index, as its repository has.

https://huggingface.co/docs/hub/eval-results: one value a benchmark's task, from a file a record.
The model-index is the older form, for a model card's metadata, and has groups and intervals too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]  # their own writer

from cirbench.benchmark.export.origin import describe_origin
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.files import write_whole

RESULTS, INDEX = ".eval_results", "model-index.yaml"


def write_hugging_face(records: Sequence[Record], folder: Path, namespace: str) -> Iterator[Path]:
    """Write each model's folder, and yield each file's path.

    Args:
        namespace: who owns the tasks' data sets on the Hub; their ids are NAMESPACE/TASK.
    """
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(name_model(record), []).append(record)
    for name, own in models.items():
        for record in own:
            entries = eval_result_entries_to_yaml(make_entries(record, namespace))
            text = yaml_dump(entries, sort_keys=False)
            stem = f"{slug(record.cell.task)}--{record.home.stem}"
            yield _write(folder / name / RESULTS / f"{stem}.yaml", text)
        card = ModelCardData(
            model_name=name,
            eval_results=[result for record in own for result in make_results(record, namespace)],
        )
        yield _write(folder / name / INDEX, f"{card.to_yaml()}\n")


def name_model(record: Record) -> str:
    """Name what was evaluated: a readable slug, and a hash of all that tells models apart."""
    cell = record.cell
    apart = (record.method_label, cell.backbone, cell.checkpoint, cell.seed)
    named = json.dumps([*apart, record.fingerprints.weights]).encode()
    digest = hashlib.sha256(named).hexdigest()[:8]
    return f"{slug(record.method_label)}--{slug(cell.backbone)}--{digest}"


def make_entries(record: Record, namespace: str) -> list[EvalResultEntry]:
    """Give the average in each metric, each as a task of the data set."""
    cell = record.cell
    return [
        EvalResultEntry(
            dataset_id=f"{namespace}/{slug(cell.task)}",
            task_id=f"{cell.split}/{cell.protocol}/{metric}",
            value=interval.value,
            notes=(
                f"{metric} in percent, average over groups, {record.bootstrap.level:.0%} interval "
                f"{interval.low:.2f} to {interval.high:.2f}, {interval.n} queries; "
                f"{describe_origin(record)} commit {record.environment.code.commit or 'unknown'}"
            ),
        )
        for metric, interval in record.metrics["average"].items()
    ]


def make_results(record: Record, namespace: str) -> list[EvalResult]:
    """Give every metric of every average and group."""
    cell = record.cell
    return [
        EvalResult(
            task_type="composed-image-retrieval",
            task_name="Composed image retrieval",
            dataset_type=f"{namespace}/{slug(cell.task)}",
            dataset_name=record.task_label,
            dataset_config=cell.protocol,
            dataset_split=cell.split,
            metric_type=metric,
            metric_name=f"{metric}, {row}",
            metric_value=interval.value,
            metric_args={"low": interval.low, "high": interval.high, "queries": interval.n},
        )
        for row, values in record.metrics.items()
        for metric, interval in values.items()
    ]


def _write(path: Path, text: str) -> Path:
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path
