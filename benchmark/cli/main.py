"""The command `bench`. Nothing heavy is imported before a command needs it."""

import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cirbench.benchmark.cli.audit import auditor
from cirbench.benchmark.cli.cache import cache as stored_cache
from cirbench.benchmark.cli.compare import comparer
from cirbench.benchmark.cli.data import data
from cirbench.benchmark.cli.embed import embed
from cirbench.benchmark.cli.export import exporter
from cirbench.benchmark.cli.imports import VECTORS, Producer, importer, store_import
from cirbench.benchmark.cli.options import (
    HELP,
    RUNS,
    AsJson,
    AsMarkdown,
    Backbone,
    DataRoot,
    Devices,
    Precision,
    Quiet,
    Results,
    Seed,
    Workers,
    as_text,
    complete,
    is_clone,
    print_json,
)
from cirbench.benchmark.cli.plugins import checker, maker
from cirbench.benchmark.cli.report import register as register_report
from cirbench.benchmark.cli.rerun import rerunner
from cirbench.benchmark.cli.search import searcher
from cirbench.benchmark.cli.seeds import Seeds, parse_seeds
from cirbench.benchmark.cli.sweep import sweeper
from cirbench.benchmark.cli.train import trainer
from cirbench.benchmark.cli.train_combiner import train_clip_sum, train_combiner
from cirbench.benchmark.cli.weights import weights
from cirbench.benchmark.runtime.errors import UNFORESEEN, CheckFailed, CirbenchError, UsageError
from cirbench.benchmark.runtime.paths import to_line, to_text
from cirbench.benchmark.runtime.threads import limit_openmp_spin

if TYPE_CHECKING:
    from cirbench.benchmark.evaluation.plan import Plan

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
KNOWN_VARIABLES = ("CIRBENCH_CACHE", "CIRBENCH_DATA", "CIRBENCH_RESULTS")

app = typer.Typer(
    help="Composed image retrieval: methods × tasks through one harness.",
    epilog="Exit codes: 0 ok · 1 a check failed · 2 usage · 3 data missing · 4 data corrupt · "
    "70 a fault of bench · 130 interrupted",
    pretty_exceptions_enable=False,
    **HELP,  # type: ignore[arg-type]  # one dict for both apps
)
app.add_typer(trainer, name="train")
trainer.command(
    "combiner",
    epilog="Examples: bench train combiner -t fashion-iq -b ViT-L-14/openai -o c.safetensors"
    " · bench train combiner -t emoji -b emoji-clip -o c.safetensors",
)(train_combiner)
trainer.command(
    "clip-sum",
    epilog="Examples: bench train clip-sum -t cirr -b RN50x4/openai -o tuned"
    " · bench train combiner -t cirr -b tuned:tuned -o tuned/combiner.safetensors"
    " · bench run -m combiner -t cirr -b tuned:tuned",
)(train_clip_sum)
app.add_typer(sweeper, name="sweep")
app.add_typer(comparer)
app.add_typer(rerunner)
app.add_typer(auditor)
app.add_typer(searcher)
app.add_typer(importer)
app.add_typer(data, name="data")
app.add_typer(exporter, name="export")
app.add_typer(stored_cache, name="cache")
app.add_typer(weights, name="weights")
app.add_typer(checker)
app.add_typer(maker, name="new")


app.command(
    epilog="Examples: bench embed -t cirr -b ViT-L-14/openai · bench embed -t cirr --shard 2/8"
    " · bench embed -t cirr --device cuda:0,cuda:1"
)(embed)


def _print_version(wanted: bool) -> None:
    if wanted:
        from cirbench.benchmark.runtime.provenance import read_code_state, read_package_versions

        version, commit = read_package_versions()["cirbench"], read_code_state()["commit"]
        print(f"cirbench {version}, commit {commit}")
        raise typer.Exit


@app.callback()
def _bench(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print version and commit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run `bench`; every error a person can act on ends in its documented exit code."""
    _prepare_process()
    try:
        with _choose_results():
            app()
    except CirbenchError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in _FULL_DISK:
            _end_unforeseen(error)
        _end(
            f"{error.filename or 'a file'} cannot be written ({error.strerror}); what was written "
            "before is intact; free space, or choose another place, and run again",
            UsageError.exit_code,
        )
    except Exception as error:  # what nobody foresaw must not look like a check's "no"
        _end_unforeseen(error)


def _prepare_process() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that can't be encoded is escaped
    os.environ["MPLBACKEND"] = "agg"  # figures are files here, whatever the shell draws on
    warnings.showwarning = _show_warning
    _warn_of_unknown_variables()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limit_openmp_spin()


@contextmanager
def _choose_results() -> Iterator[None]:
    """Send a user's runs to runs/ in a clone of cirbench, whose results/ is the project's own."""
    if "CIRBENCH_RESULTS" in os.environ or not is_clone(Path.cwd()):
        yield
        return
    os.environ["CIRBENCH_RESULTS"] = RUNS
    try:
        yield
    finally:
        del os.environ["CIRBENCH_RESULTS"]


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """A warning as a line, without the place in the code that gave it."""
    print(f"bench: warning: {message}", file=sys.stderr)


def _end(message: str, code: int) -> NoReturn:
    print(f"bench: error: {message}", file=sys.stderr)
    sys.exit(code)


def _end_unforeseen(error: Exception) -> NoReturn:
    import traceback

    traceback.print_exception(error)
    _end(
        f"{type(error).__name__}: {error} (this is a bug; please report it with the lines above)",
        UNFORESEEN,
    )


def _warn_of_unknown_variables() -> None:
    for name in sorted(os.environ):
        if name.startswith("CIRBENCH_") and name not in KNOWN_VARIABLES:
            known = ", ".join(KNOWN_VARIABLES)
            print(f"bench: warning: unknown variable {name}; known: {known}", file=sys.stderr)


@app.command(
    epilog="Examples: bench run -m pic2word -t emoji · bench run -m all -t emoji --limit 20 --json"
)
def run(
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            help="Repeatable, or all that have weights here.",
            autocompletion=complete("methods"),
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            "-t",
            help="bench ls tasks, or a FILE.toml or FOLDER of your own; embedded runs all whose "
            "data come with cirbench.",
            autocompletion=complete("tasks"),
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Default: the task's first.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="bench info TASK lists them; all runs each in turn.")
    ] = None,
    backbone: Backbone = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD=FILE, repeatable, or FILE for the one method that needs it; default: "
            "shipped or released weights (bench weights). {seed} in FILE is the seed."
        ),
    ] = None,
    data_root: DataRoot = None,
    device: Devices = "auto",
    precision: Precision = "fp32",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures at once; halved when memory runs out.")
    ] = 64,
    workers: Workers = 2,
    seed: Seed = 0,
    seeds: Seeds = None,
    label: Annotated[
        str | None,
        typer.Option(help="A label of these records in tables, to tell them from others."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Only the first N queries of each group; such partial records are kept apart.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Leave out pictures that are not there or cannot be decoded."
        ),
    ] = False,
    cache: Annotated[
        str, typer.Option(help="What to do with stored embeddings: use, refresh, read-only or off.")
    ] = "use",
    vectors: Annotated[
        Path | None,
        typer.Option(help="With -m vectors: a file of vectors that were computed elsewhere."),
    ] = None,
    producer: Producer = None,
    output: Results = Path("results"),
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate methods on a task, and store a record of each."""
    from rich.console import Console

    from cirbench.benchmark.evaluation import plan as planning
    from cirbench.benchmark.evaluation.weights import parse_checkpoints

    imports = VECTORS in method
    request = planning.Request(
        methods=tuple(method),
        task=task,
        split=split,
        protocol=protocol,
        backbone=backbone,
        checkpoints={} if imports else parse_checkpoints(checkpoint or (), method),
        data_root=data_root,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        limit=limit,
        label=label and to_text(label),
        allow_missing=allow_missing,
        cache=cache,
        output=output,
    )
    if imports or vectors:
        others = (backbone, checkpoint, limit, label, allow_missing or None, dry_run or None)
        if method != [VECTORS] or vectors is None or others != (None,) * len(others):
            raise UsageError(
                "vectors are ranked as they are, by bench run -m vectors --vectors FILE -t TASK "
                "--producer TEXT, without another method, a backbone, weights, a limit or a plan"
            )
        store_import(request, [vectors], producer, as_json=as_json, quiet=quiet)
        return
    plans = planning.plan_seeds(request, parse_seeds(seeds) if seeds else (seed,))
    if dry_run:
        _print_plans(plans, as_json)
        return
    # what follows takes seconds to import, which a mistake or a plan need not wait for
    from cirbench.benchmark.cli.terminal import print_record
    from cirbench.benchmark.evaluation import run as harness
    from cirbench.benchmark.report.markdown import format_lines
    from cirbench.benchmark.runtime.progress import Reporter

    records, reporter = [], Reporter(quiet=quiet)
    try:
        for plan in plans:
            for record in harness.run(plan, reporter):
                records.append(record)
                if not as_json:
                    if len(plan.methods) == 1 or not record.metrics:
                        print_record(record, Console())
                    print(f"record: {record.path}")
            if not as_json and len(plan.methods) > 1 and plan.data.labelled:
                note = ", MADE DATA" if plan.made else ""
                note += ", PARTIAL: queries or pictures are left out" if plan.partial else ""
                own = records[-len(plan.methods) :]
                print(f"\n{plan.task.name}, protocol {plan.protocol.name}{note}")
                print(f"{format_lines(own)}\n")
    except KeyboardInterrupt:
        wanted = sum(len(plan.methods) for plan in plans)
        reporter.say(f"interrupted; {len(records)} of {wanted} records are stored")
        raise
    if as_json:
        print_json(
            records[0].to_json() if len(records) == 1 else [record.to_json() for record in records]
        )


def _print_plans(plans: "list[Plan]", as_json: bool) -> None:
    summaries = [_summarise_plan(plan) for plan in plans]
    if as_json:
        print_json(summaries[0] if len(summaries) == 1 else summaries)
        return
    print("\n\n".join("\n".join(as_text(summary)) for summary in summaries))


def _summarise_plan(plan: "Plan") -> dict[str, Any]:
    return {
        "methods": [method.name for method in plan.methods],
        "task": plan.task.name,
        "split": plan.split,
        "protocol": {**plan.protocol.as_dict(), "hash": plan.protocol.hash},
        "backbone": plan.backbone,
        "checkpoints": {
            method.name: str(method.checkpoint) for method in plan.methods if method.checkpoint
        },
        "device": plan.request.device,
        "queries": len(plan.data.queries),
        "gallery": len(plan.data.gallery),
        "pictures": plan.pictures,
        "cache": f"{plan.request.cache}: stored pictures are not encoded again",
        "output": str(plan.output),
        "seed": plan.request.seed,
        "missing": len(plan.data.missing),
        "released_annotations": plan.released,
        "made": plan.made,
        "partial": plan.partial,
    }


@app.command(epilog="Examples: bench leaderboard · bench leaderboard --check")
def leaderboard(
    output: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file is stale.")
    ] = False,
) -> None:
    """Write leaderboard.md and the plots from the stored records."""
    from cirbench.benchmark.analysis.boards import read_boards
    from cirbench.benchmark.report.markdown import format_lines
    from cirbench.benchmark.report.publish import find_stale, publish

    if check:
        if old := find_stale(output):
            raise CheckFailed(
                f"stale files: {', '.join(map(str, old))}; bench leaderboard writes them"
            )
        return
    boards = read_boards(output)
    paths = publish(output, boards)
    for board in boards:
        print(f"{to_line(board.title)}\n{format_lines(board.rows)}\n")
    for path in paths:
        print(path)


@app.command(
    epilog="Examples: bench verify · bench verify -m pic2word -t imagenet-r --require"
    " · bench verify --conflicts -t circo"
)
def verify(
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Only these.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only these.")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Exit 1 where a confirmed number is not run.")
    ] = False,
    conflicts: Annotated[
        bool,
        typer.Option("--conflicts", help="List the published numbers that do not fit each other."),
    ] = False,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Hold the records against published numbers.

    Exit 1 if a confirmed one differs.
    """
    from cirbench.benchmark.analysis import published
    from cirbench.benchmark.analysis.conflicts import find_conflicts
    from cirbench.benchmark.cli.terminal import print_conflicts, print_verdicts
    from cirbench.benchmark.scoring.summary import read_scored

    rows = [
        row
        for row in published.read_published()
        if (not method or row.method in method) and (not task or row.task in task)
    ]
    if not rows:
        raise UsageError("no published number fits; bench verify --json lists them all")
    if conflicts:
        found = find_conflicts(rows)
        if as_json:
            print_json([conflict.as_dict() for conflict in found])
        else:
            print_conflicts(found)
        return
    verdicts = published.verify(rows, read_scored(output))
    if as_json:
        print_json([verdict.as_dict() for verdict in verdicts])
    else:
        print_verdicts(verdicts)
    failing = {published.DIFFERS, published.NOT_RUN} if require else {published.DIFFERS}
    if failed := [v for v in verdicts if v.published.gates and v.state in failing]:
        raise CheckFailed(f"{len(failed)} confirmed numbers: {' or '.join(sorted(failing))}")


@app.command(epilog="Examples: bench ls · bench ls methods --json")
def ls(
    kind: Annotated[str, typer.Argument(help="methods, tasks, backbones or all.")] = "all",
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
) -> None:
    """List methods, tasks and backbones."""
    from cirbench.benchmark.api import registry

    kinds = {"methods": registry.methods, "tasks": registry.tasks, "backbones": registry.backbones}
    if kind != "all" and kind not in kinds:
        raise UsageError(f"unknown kind {kind!r}; known: all, {', '.join(kinds)}")
    wanted = kinds if kind == "all" else {kind: kinds[kind]}
    listed = {
        name: {k: e.summary or f"from {e.origin}" for k, e in entries().items()}
        for name, entries in wanted.items()
    }
    if as_json:
        print_json(listed)
        return
    for name, summaries in listed.items():
        if markdown:
            print(f"| {name} | |\n|:--|:--|")
            print("".join(f"| `{key}` | {summary} |\n" for key, summary in summaries.items()))
            continue
        print(f"{name}")
        for key, summary in summaries.items():
            print(f"  {key:<12} {summary}")


@app.command(epilog="Examples: bench info emoji · bench info pic2word --json")
def info(
    name: Annotated[str, typer.Argument(help="A task, a method or a backbone.")],
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
) -> None:
    """Describe a task, a method or a backbone."""
    from cirbench.benchmark.cli.describe import as_markdown, describe

    description = describe(name)
    if as_json:
        print_json(description)
    elif markdown:
        print("\n".join(as_markdown(description)))
    else:
        print("\n".join(as_text(description)))


@app.command(epilog="Examples: bench env · bench env --json > env.json")
def env(as_json: AsJson = False) -> None:
    """Print commit, versions and hardware, as records keep them."""
    from cirbench.benchmark.runtime.provenance import describe_environment

    found = asdict(describe_environment())
    if as_json:
        print_json(found)
        return
    print("\n".join(as_text(found)))


register_report(app)
