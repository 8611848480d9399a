"""The command `bench`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirbench.benchmark.cli_compare import comparer
from cirbench.benchmark.cli_options import (
    HELP,
    AsJson,
    Backbone,
    DataRoot,
    Device,
    Quiet,
    Results,
    Seed,
    Workers,
)
from cirbench.benchmark.cli_search import searcher
from cirbench.benchmark.cli_train import trainer
from cirbench.benchmark.errors import CheckFailed, CirbenchError, UsageError

if TYPE_CHECKING:
    from cirbench.benchmark.plan import Plan

KNOWN_VARIABLES = ("CIRBENCH_DATA", "CIRBENCH_RESULTS")

app = typer.Typer(
    help="Composed image retrieval: methods × tasks through one harness.",
    epilog="Exit codes: 0 ok · 1 a check failed · 2 usage · 3 data missing · 4 data corrupt · "
    "130 interrupted",
    pretty_exceptions_enable=False,
    add_completion=False,
    **HELP,  # type: ignore[arg-type]  # one dict for both apps
)
app.add_typer(trainer, name="train")
app.add_typer(comparer)
app.add_typer(searcher)
data = typer.Typer(help="Find the data sets.", **HELP)  # type: ignore[arg-type]  # the same
app.add_typer(data, name="data")


def main() -> None:
    """Runs `bench`; every error a person can act on ends in its documented exit code."""
    _warn_of_unknown_variables()
    try:
        app()
    except CirbenchError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _warn_of_unknown_variables() -> None:
    for name in sorted(os.environ):
        if name.startswith("CIRBENCH_") and name not in KNOWN_VARIABLES:
            known = ", ".join(KNOWN_VARIABLES)
            print(f"bench: warning: {name} is not known (known: {known})", file=sys.stderr)


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2, sort_keys=True))


@app.command(
    epilog="Examples: bench run -m pic2word -t emoji · bench run -m all -t emoji --limit 20 --json"
)
def run(
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="Repeatable, or all; bench ls methods.")
    ],
    task: Annotated[str, typer.Option("--task", "-t", help="bench ls tasks.")],
    split: Annotated[str | None, typer.Option(help="Default: the task's first.")] = None,
    protocol: Annotated[str | None, typer.Option(help="bench info TASK lists them.")] = None,
    backbone: Backbone = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The method's weights; default: the shipped ones.")
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or fp16, of the towers; ranking stays fp32.")
    ] = "fp32",
    batch_size: Annotated[int, typer.Option(min=1, help="Halved where memory runs out.")] = 64,
    workers: Workers = 2,
    seed: Seed = 0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="First N queries a group; a partial record, kept apart."),
    ] = None,
    output: Results = Path("results"),
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate methods on a task, and store a record of each."""
    from rich.console import Console

    from cirbench.benchmark import plan as planning
    from cirbench.benchmark import run as harness
    from cirbench.benchmark.progress import Reporter
    from cirbench.benchmark.registry import methods
    from cirbench.benchmark.tables import print_record

    chosen = tuple(dict.fromkeys(methods() if "all" in method else method))
    plan = planning.plan(
        planning.Request(
            methods=chosen, task=task, split=split, protocol=protocol, backbone=backbone,
            checkpoint=checkpoint, data_root=data_root, device=device, precision=precision,
            batch_size=batch_size, workers=workers, seed=seed, limit=limit, output=output,
        )
    )  # fmt: skip
    if dry_run:
        _print_json(_plan_summary(plan))
        return
    records, reporter = [], Reporter(quiet=quiet)
    try:
        for record in harness.run(plan, reporter):
            records.append(record.data)
            if not as_json:
                print_record(record, Console())
                print(f"record: {record.path}\n")
    except KeyboardInterrupt:
        reporter.say(f"interrupted; {len(records)} of {len(chosen)} records are stored")
        raise
    if as_json:
        _print_json(records[0] if len(records) == 1 else records)


def _plan_summary(plan: Plan) -> dict[str, Any]:
    return {
        "methods": list(plan.request.methods),
        "task": plan.task.name,
        "split": plan.split,
        "protocol": {**plan.protocol.as_dict(), "hash": plan.protocol.hash},
        "backbone": plan.backbone,
        "device": plan.device,
        "queries": len(plan.data.queries),
        "gallery": len(plan.data.gallery),
        "image_passes": plan.image_passes,
        "output": str(plan.output),
        "partial": plan.request.limit is not None,
    }


@app.command(epilog="Examples: bench leaderboard · bench leaderboard --check")
def leaderboard(
    output: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file is stale.")
    ] = False,
) -> None:
    """Write leaderboard.md and the plots from the records in the results folder."""
    from cirbench.benchmark.publish import publish, stale

    if check:
        if old := stale(output):
            raise CheckFailed(f"stale: {', '.join(map(str, old))}; bench leaderboard writes them")
        return
    for path in publish(output):
        print(path)


@app.command(epilog="Examples: bench verify · bench verify -m pic2word -t imagenet-r --require")
def verify(
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Only these.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only these.")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Exit 1 where a confirmed number is not run.")
    ] = False,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Hold the records against published numbers; exit 1 if a confirmed one differs."""
    from cirbench.benchmark import published
    from cirbench.benchmark.records import read_records
    from cirbench.benchmark.tables import print_verdicts

    rows = [
        row
        for row in published.read_published()
        if (not method or row.method in method) and (not task or row.task in task)
    ]
    if not rows:
        raise UsageError("no number is published for that; bench verify --json lists them all")
    verdicts = published.verify(rows, list(read_records(output)))
    if as_json:
        _print_json([verdict.as_dict() for verdict in verdicts])
    else:
        print_verdicts(verdicts)
    failing = {published.DIFFERS, published.NOT_RUN} if require else {published.DIFFERS}
    if failed := [v for v in verdicts if v.published.gates and v.state in failing]:
        raise CheckFailed(f"{len(failed)} confirmed numbers: {' or '.join(sorted(failing))}")


@app.command(epilog="Examples: bench ls · bench ls methods --json")
def ls(
    kind: Annotated[str, typer.Argument(help="methods, tasks, backbones or all.")] = "all",
    as_json: AsJson = False,
) -> None:
    """List methods, tasks and backbones."""
    from cirbench.benchmark import registry

    kinds = {
        "methods": registry.methods, "tasks": registry.tasks, "backbones": registry.backbones
    }  # fmt: skip
    if kind != "all" and kind not in kinds:
        raise UsageError(f"unknown kind {kind!r}; known: all, {', '.join(kinds)}")
    wanted = kinds if kind == "all" else {kind: kinds[kind]}
    listed = {
        name: {k: e.summary or f"from {e.origin}" for k, e in entries().items()}
        for name, entries in wanted.items()
    }
    if as_json:
        _print_json(listed)
        return
    for name, summaries in listed.items():
        print(f"{name}")
        for key, summary in summaries.items():
            print(f"  {key:<12} {summary}")


@app.command(epilog="Examples: bench info emoji · bench info pic2word --json")
def info(
    name: Annotated[str, typer.Argument(help="A task, a method or a backbone.")],
    as_json: AsJson = False,
) -> None:
    """Describe a task with its protocols, a method, or a backbone."""
    from cirbench.benchmark.describe import describe

    description = describe(name)
    if as_json:
        _print_json(description)
    else:
        for key, value in description.items():
            text = value if isinstance(value, str) else json.dumps(value, indent=2)
            print(f"{key}: {text}")


@data.command(epilog="Examples: bench data where imagenet-r --data-root ~/data")
def where(
    task: Annotated[str, typer.Argument(help="bench ls tasks.")],
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Print what a task looks for below the data root, and what is there."""
    from cirbench.benchmark.registry import find_task

    looked = [
        {
            "name": place.name,
            "looked for": list(place.candidates),
            "found": str(place.find(data_root) or "") if data_root else "",
            "optional": place.optional,
        }
        for place in find_task(task).places
    ]
    if as_json:
        _print_json(looked)
        return
    print(f"{task}: {'embedded, reads nothing' if not looked else data_root or 'no data root'}")
    for place in looked:
        wanted = " or ".join(place["looked for"])
        missing = "not there, optional" if place["optional"] else "MISSING"
        print(f"  {place['name']}: {place['found'] or missing} (looked for {wanted})")


@app.command(epilog="Examples: bench env · bench env --json > env.json")
def env(as_json: AsJson = False) -> None:
    """Print the code's commit, versions and hardware, as records keep them."""
    from cirbench.benchmark.provenance import environment

    found = environment()
    if as_json:
        _print_json(found)
        return
    for key, value in found.items():
        print(f"{key}: {value}")
