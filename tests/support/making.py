"""Parts of a record that a test does not speak of."""

from __future__ import annotations

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.records.fields import (
    Annotations,
    Body,
    Bootstrap,
    Cell,
    Counts,
    Fingerprints,
    MethodFacts,
    Run,
)
from cirbench.benchmark.runtime.provenance import Code, Environment


class Stage:
    """Counts what it is told of."""

    done = 0

    def advance(self, count: int) -> None:
        self.done += count


ENVIRONMENT = Environment(
    code=Code(commit="c0ffee", dirty=None),
    python="3.11",
    packages={},
    platform="Linux",
    cpu="a CPU",
    cpu_count=2,
    gpu=None,
)


def make_cell(protocol: EvaluationProtocol, /, **changes) -> Cell:
    """A cell of the task "shapes"."""
    return Cell(
        **{
            "method": "m",
            "trained_on": None,
            "task": "shapes",
            "split": "test",
            "protocol": f"{protocol.name}@{protocol.hash}",
            "backbone": "tiny",
            "checkpoint": None,
            "seed": 0,
            **changes,
        }
    )


def make_counts(queries=0, references=0, gallery=0) -> Counts:
    """Counts of an evaluation in which nothing was missing or tied."""
    return Counts(
        queries=queries,
        references=references,
        gallery=gallery,
        missing=0,
        queries_without_positives=0,
        tied_queries=0,
        pictures=gallery,
        image_passes=gallery,
    )


def make_fingerprints(**changes) -> Fingerprints:
    """Fingerprints that all records of a test share."""
    names = {"gallery": "g", "annotations": "a", "references": "r", "weights": "w"}
    return Fingerprints(**{**names, "preprocess": "p", "checkpoint": None, **changes})


def make_run(**changes) -> Run:
    """A whole run on a CPU."""
    return Run(
        **{
            "partial": False,
            "limit": None,
            "precision": "fp32",
            "device": "cpu",
            "batch_size": 64,
            "cache": "use",
            "workers": 2,
            "preprocess": {"name": "clip"},
            "seconds": {},
            "peak_memory_bytes": 0,
            **changes,
        }
    )


def make_body(cell: Cell, protocol: EvaluationProtocol, metrics, groups, **parts) -> Body:
    """A record without its per-query data."""
    return Body(
        **{
            "cell": cell,
            "method": MethodFacts(zero_shot=True, remarks=()),
            "metrics": metrics,
            "groups": tuple(groups),
            "protocol": protocol,
            "bootstrap": Bootstrap(resamples=2000, seed=0, level=0.95, cluster="reference"),
            "counts": make_counts(),
            "fingerprints": make_fingerprints(),
            "annotations": Annotations(released=True, files={}, remarks=()),
            "run": make_run(),
            "environment": ENVIRONMENT,
            **parts,
        }
    )
