"""What the commands cost that read many records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from cirbench.benchmark.records.fields import Body
from cirbench.benchmark.records.record import read_records, write_record
from cirbench.benchmark.scoring.summary import summarise
from perf.measure import Row

RECORDS = 300
_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
_SHIPPED = Path(__file__).parents[3] / "results"


def make_records(root: Path, numbers: Iterable[int]) -> None:
    """Write records of one board: the shipped ones in turn, one seed after the other, their values
    given to other queries of the same group."""
    shipped = [(one, one.read_per_query()) for one in read_records(_SHIPPED)]
    for number in numbers:
        record, arrays = shipped[number % len(shipped)]
        order = np.lexsort((np.random.default_rng(number).random(len(arrays.query)), arrays.group))
        values = np.empty_like(arrays.values)
        values[np.argsort(arrays.group, kind="stable")] = arrays.values[order]
        changed = replace(arrays, values=values)
        body = Body(**{f.name: getattr(record, f.name) for f in fields(Body)})
        body = replace(
            body,
            cell=replace(record.cell, seed=number // len(shipped)),
            metrics=summarise(changed, record.groups, record.protocol),
        )
        write_record(root, body, changed)


def command_rows(folder: Path) -> Iterator[Row]:
    """What the commands cost that read all records: at first, and when nothing has changed."""
    make_records(folder / "records", range(RECORDS))
    for arguments in (["leaderboard"], ["report"], ["compare", "pic2word", "image-text"]):
        command = [*arguments, "--output", str(folder / "records")]
        first, _ = run_bench(command, folder / "cache")
        again, megabytes = run_bench(command, folder / "cache")
        yield Row(
            name=f"bench {arguments[0]}, {RECORDS} records, once more",
            against="2 s",
            ratio=again / 2,
            target="≤ 1, ≤ 500 MB",
            ok=again <= 2 and megabytes <= 500,
            measured=f"{again:.1f} s, {megabytes:,.0f} MB; at first {first:.1f} s",
        )


def run_bench(arguments: Sequence[str], cache: Path) -> tuple[float, float]:
    """Run `bench`; give seconds and its greatest resident memory in MB."""
    run = "import sys; from cirbench.benchmark.cli.main import main; main()"
    command = [sys.executable, "-P", "-c", run, *arguments]
    environment = {**os.environ, "CIRBENCH_CACHE": str(cache)}
    started = time.perf_counter()
    # between the two a small process: a child's peak counts what its parent had when it forked
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command],
        check=True,
        capture_output=True,
        env=environment,
        encoding="utf-8",
    )
    return time.perf_counter() - started, float(done.stdout) / 1024
