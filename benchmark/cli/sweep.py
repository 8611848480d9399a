"""`bench sweep`. Nothing heavy is imported before a command needs it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, DataRoot, Results
from cirbench.benchmark.runtime.errors import CheckFailed, MissingData, UsageError

if TYPE_CHECKING:
    from cirbench.slurm.cells.manifest import Manifest
    from cirbench.slurm.status import CellStatus

sweeper = typer.Typer(help="Many cells on a cluster, or on this machine.", **HELP)  # type: ignore[arg-type]  # one dict for all apps

Name = Annotated[str, typer.Argument(help="The sweep's name.")]
SweepsDir = Annotated[Path, typer.Option(help="Where sweeps keep their folders; a shared disk.")]
Cluster = Annotated[
    str, typer.Option(help="slurm; local: processes of this machine; debug: this process.")
]
Snapshot = Annotated[
    bool,
    typer.Option("--snapshot/--no-snapshot", help="Jobs run the code as it is now (a wheel)."),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="After a failure, no further cell begins.")
]
SWEEPS = Path("sweeps")
LOOK_SECONDS = 10.0
"""Between two looks at a sweep."""


@sweeper.command(
    epilog="Examples: bench sweep submit emoji --cluster local · bench sweep submit my.toml"
    " --profile my-cluster.toml --dry-run. Exit codes: 1 Slurm stopped taking jobs, or a cell"
    " is not done under debug or after --wait; 2 a mistake in the file, no Slurm, or it refuses the"
    " resources; 130 interrupted: the sweep goes on."
)
def submit(
    sweep_file: Annotated[str, typer.Argument(help="A TOML file; or shipped: emoji, paper, …")],
    cluster: Cluster = "slurm",
    profile: Annotated[
        str | None, typer.Option(help="What jobs ask for: a TOML file, or a shipped name.")
    ] = None,
    sweeps_dir: SweepsDir = SWEEPS,
    data_root: DataRoot = None,
    fail_fast: FailFast = False,
    snapshot: Snapshot = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells and sbatch scripts; submit nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when all cells have ended: 0 if all are done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit what is missing of a sweep, and return at once.

    The same file again submits what is still missing. Every mistake in it is told before any job.
    With --wait, return when the sweep has ended.
    """
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.slurm import choose, planning

    _check_cluster(cluster)
    planned = planning.plan_sweep(
        sweep_file, profile=profile, sweeps=sweeps_dir, data_root=data_root, fail_fast=fail_fast
    )
    if dry_run:
        shown = planning.preview(planned, snapshot=snapshot)
        _print(shown) if as_json else _print_preview(shown)
        return
    with planned.manifest.lock():
        rows = planning.prepare(planned, Reporter())
        cells = choose.choose_missing(rows)
        _send(planned.manifest, cells, cluster, snapshot, as_json)
    if wait:
        _check_done(planned.manifest.name, wait_for_end(planned.manifest))


@sweeper.command(
    epilog="Examples: bench sweep status paper --watch · bench sweep status paper --json"
)
def status(
    name: Name,
    sweeps_dir: SweepsDir = SWEEPS,
    watch: Annotated[
        bool, typer.Option("--watch", help="Until every cell has ended; Ctrl-C only stops looking.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = LOOK_SECONDS,
    each: Annotated[
        bool, typer.Option("--all", help="A row for each cell; else equal ones are summed up.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the cells: state, job, node, time and reason. Asks the folder and the queue."""
    from cirbench.slurm.status import refresh_status

    manifest = _open_manifest(name, sweeps_dir)
    if watch and not as_json:
        _watch(manifest, every, each)
        return
    rows = refresh_status(manifest)
    if as_json:
        _print([row.as_dict() for row in rows])
        return
    from cirbench.slurm.tables import count_states, make_table

    _make_console().print(make_table(rows, each=each))
    print(count_states(rows))


@sweeper.command(
    epilog="Examples: bench sweep retry paper · bench sweep retry paper --failed --timeout. Exit"
    " code 2 where a cell cannot be given less to do; the others are submitted all the same."
)
def retry(
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="Cells that failed.")] = False,
    timeout: Annotated[bool, typer.Option("--timeout", help="Cells out of time.")] = False,
    oom: Annotated[
        bool, typer.Option("--oom", help="Out of memory: with half the batch, or more memory.")
    ] = False,
    cluster: Annotated[str | None, typer.Option(help="Default: where they were before.")] = None,
    sweeps_dir: SweepsDir = SWEEPS,
    snapshot: Snapshot = True,
    as_json: AsJson = False,
) -> None:
    """Submit cells again that failed or were skipped for others.

    Without states, those that failed or ran out of time or memory.
    """
    from cirbench.slurm import choose
    from cirbench.slurm.status import refresh_status

    wanted = [s for s, on in (("failed", failed), ("timeout", timeout), ("oom", oom)) if on]
    manifest = _open_manifest(name, sweeps_dir)
    with manifest.lock():
        rows = refresh_status(manifest)
        cluster = cluster or choose.find_last_cluster(manifest, rows)
        _check_cluster(cluster)
        chosen = choose.choose_to_retry(rows, wanted or choose.RETRIED)
        cells, refusals = choose.adjust_after_oom(manifest, rows, chosen)
        _send(manifest, cells, cluster, snapshot, as_json)
    if refusals:
        raise UsageError(f"not retried: {'; '.join(refusals)}")


@sweeper.command(epilog="Examples: bench sweep cancel paper")
def cancel(name: Name, sweeps_dir: SweepsDir = SWEEPS) -> None:
    """Cancel every cell that waits or runs; what is done stays."""
    from cirbench.slurm import submit as submitting
    from cirbench.slurm.status import refresh_status

    manifest = _open_manifest(name, sweeps_dir)
    with manifest.lock():
        count = submitting.cancel(manifest, refresh_status(manifest))
    print(f"{name}: {count} cells cancelled")


@sweeper.command(
    epilog="Examples: bench sweep logs paper pic2word--cirr · bench sweep logs paper CELL"
)
def logs(
    name: Name,
    cell: Annotated[str, typer.Argument(help="A cell's id, or how it begins.")],
    sweeps_dir: SweepsDir = SWEEPS,
) -> None:
    """Print what a cell's last job printed."""
    manifest = _open_manifest(name, sweeps_dir)
    fitting = [id_ for id_ in manifest.read_plan().cells if id_.startswith(cell)]
    if cell in fitting:
        fitting = [cell]
    if len(fitting) != 1:
        raise UsageError(
            f"the beginning of a cell's id must fit one cell, got {cell!r}, which fits "
            f"{len(fitting) or 'no'}{(': ' + ', '.join(fitting) if fitting else '')}; bench sweep "
            f"status {name} --all lists them"
        )
    from cirbench.slurm.status import refresh_status

    [state] = [row.state for row in refresh_status(manifest) if row.cell.id == fitting[0]]
    if state.job is None:
        raise MissingData(f"{fitting[0]} is {state.status} and has no log, since no job has run it")
    path = manifest.log_path(state.job)
    if path.is_file():
        sys.stdout.write(path.read_text(errors="replace", encoding="utf-8"))
    elif state.log:
        print("\n".join(state.log))
    else:
        raise MissingData(
            f"{path} does not exist; the job may not have started, or its log was removed"
        )


@sweeper.command(
    epilog="Examples: bench sweep collect paper · bench sweep collect paper -o results. Exit code"
    " 1 where a cell is not done; what is done is collected all the same."
)
def collect(
    name: Name,
    output: Results = Path("results"),
    sweeps_dir: SweepsDir = SWEEPS,
    as_json: AsJson = False,
) -> None:
    """Copy what is done into the results folder.

    Its records join those that are there, and the leaderboard is written anew.
    """
    from cirbench.benchmark.analysis.boards import read_boards
    from cirbench.benchmark.report.publish import publish
    from cirbench.slurm.collect import collect as copied
    from cirbench.slurm.status import refresh_status

    manifest = _open_manifest(name, sweeps_dir)
    rows = refresh_status(manifest)
    paths = copied(manifest, rows, output)
    if paths and not manifest.read_plan().limited:
        paths += publish(output, read_boards(output))
    if as_json:
        _print([str(path) for path in paths])
    else:
        print("\n".join(map(str, paths)))
    _check_done(name, rows)


def _check_done(name: str, rows: "Sequence[CellStatus]") -> None:
    """Check that every run has its record, or raise CheckFailed."""
    absent = [row for row in rows if row.cell.kind == "run" and row.state.status != "done"]
    if absent:
        from cirbench.slurm.tables import count_states

        raise CheckFailed(
            f"{len(absent)} of {sum(row.cell.kind == 'run' for row in rows)} cells are not done "
            f"({count_states(absent)}); bench sweep status {name} says why"
        )


def wait_for_end(manifest: "Manifest") -> "list[CellStatus]":
    """Look until no cell waits or runs; a Slurm that does not answer is asked again."""
    import time

    from cirbench.slurm.status import has_ended, refresh_status

    told = ""
    while True:
        try:
            rows = refresh_status(manifest)
        except CheckFailed as error:
            if str(error) != told:
                print(f"bench: {error}; asking again every {LOOK_SECONDS:g} s", file=sys.stderr)
            told = str(error)
        else:
            if has_ended(rows):
                return rows
        time.sleep(LOOK_SECONDS)


def _open_manifest(name: str, sweeps: Path) -> "Manifest":
    from cirbench.slurm.cells.manifest import open_manifest

    manifest = open_manifest(name, sweeps)
    manifest.read_plan()
    return manifest


def _check_cluster(cluster: str) -> None:
    from cirbench.slurm.cells.manifest import CLUSTERS

    if cluster not in CLUSTERS:
        raise UsageError(f"unknown cluster {cluster!r}; known: {', '.join(CLUSTERS)}")


def _send(
    manifest: "Manifest", cells: Sequence[Any], cluster: str, snapshot: bool, as_json: bool
) -> None:
    from cirbench.slurm.queues.snapshot import build_snapshot, choose_code
    from cirbench.slurm.submit import submit as send

    if not cells:
        print(f"{manifest.name}: nothing to submit", file=sys.stderr)
    else:
        code = choose_code(manifest, snapshot=snapshot and cluster != "debug")
        build_snapshot(code)
        count = send(manifest, cells, cluster, code)
        where = f" in {count} job arrays" if cluster == "slurm" else ""
        print(
            f"{manifest.name}: {len(cells)} cells{where}; bench sweep status {manifest.name}",
            file=sys.stderr,
        )
    if as_json:
        _print([cell.id for cell in cells])
    if cluster == "debug" and (
        bad := [c.id for c in cells if manifest.read_state(c.id).status != "done"]
    ):
        raise CheckFailed(
            f"not done: {', '.join(bad)}; bench sweep status {manifest.name} says why"
        )


def _watch(manifest: "Manifest", every: float, each: bool) -> None:
    import time

    from rich.console import Group
    from rich.live import Live

    from cirbench.slurm.status import has_ended, refresh_status
    from cirbench.slurm.tables import count_states, make_table

    with Live(console=_make_console(), auto_refresh=False) as live:
        while True:
            rows = refresh_status(manifest)
            live.update(Group(make_table(rows, each=each), count_states(rows)), refresh=True)
            if has_ended(rows):
                return
            time.sleep(every)


def _make_console() -> Any:
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 200
    return Console(width=wide, highlight=False)


def _print(data: object) -> None:
    print(json.dumps(data, indent=2, sort_keys=True))


def _print_preview(shown: dict[str, Any]) -> None:
    for cell in shown["cells"]:
        needs = f"  after {', '.join(cell['needs'])}" if cell["needs"] else ""
        print(f"{cell['state']:<9} {cell['cell']}{needs}")
    print(f"\n{shown['to submit']} to submit, in {len(shown['scripts'])} job arrays")
    for script in shown["scripts"]:
        print(f"\n{script}")
