"""`bench rerun`. Nothing heavy is imported before the command needs it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import (
    HELP,
    AsJson,
    Backbone,
    DataRoot,
    Device,
    Quiet,
    print_json,
)
from cirbench.benchmark.runtime.errors import CheckFailed
from cirbench.benchmark.runtime.paths import to_line, to_text

if TYPE_CHECKING:
    from cirbench.benchmark.evaluation.rerun import Prepared

rerunner = typer.Typer(**HELP)  # type: ignore[arg-type]  # one dict for all apps


@rerunner.command(
    epilog="Examples: bench rerun results/emoji/*.json · bench rerun A.json --by 'Jo, ANU' · bench"
    " rerun B.json --checkpoint mapper.safetensors --data-root ~/data"
)
def rerun(
    record: Annotated[list[Path], typer.Argument(help="Records' files.")],
    by: Annotated[
        str | None, typer.Option(help="Who vouches for it, kept beside the record; default: none.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The method's weights, if neither shipped nor released.")
    ] = None,
    backbone: Backbone = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make records again, from their own fingerprints.

    Says first what is not as it was, then compares. Other weights, data or protocols end in exit
    code 1, and so does a metric that differs by more than 0.05 points.
    """
    from cirbench.benchmark.evaluation import rerun as again
    from cirbench.benchmark.records.record import read_record
    from cirbench.benchmark.records.reruns import DIFFERENT, add_rerun
    from cirbench.benchmark.runtime.progress import Reporter

    reporter, found = Reporter(quiet=quiet), []
    for stored in map(read_record, record):
        prepared = again.prepare(
            stored, checkpoint=checkpoint, backbone=backbone, data_root=data_root, device=device
        )
        if not as_json:
            _tell(prepared)
        made = again.rerun(prepared, by=to_text(by or ""), reporter=reporter)
        if by:
            add_rerun(stored.path, made)
        if not as_json:
            print(f"  {made.verdict}; no metric differs by more than {made.largest:g} points")
        found.append({"path": str(stored.path), **asdict(made)})
    if as_json:
        print_json(found)
    if moved := [one["path"] for one in found if one["verdict"] == DIFFERENT]:
        raise CheckFailed(f"{len(moved)} of {len(found)} records came out differently: {moved[0]}")


def _tell(prepared: "Prepared") -> None:
    print(to_line(str(prepared.record.path)))
    for difference in prepared.differences:
        print(to_line(f"  not as it was: {difference}"))
