"""`bench embed`. Nothing heavy is imported before the command needs it."""

from dataclasses import asdict
from typing import Annotated

import typer

from cirbench.benchmark.cli.options import (
    AsJson,
    Backbone,
    DataRoot,
    Devices,
    Precision,
    Quiet,
    Workers,
    complete,
    print_json,
)
from cirbench.benchmark.runtime.errors import UsageError


def embed(
    task: Annotated[
        str,
        typer.Option(
            "--task", "-t", help="bench ls tasks lists them.", autocompletion=complete("tasks")
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Default: the task's first.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Default: the task's first; bench info TASK lists them.")
    ] = None,
    backbone: Backbone = None,
    shard: Annotated[
        str, typer.Option(help="I/N: the I-th of N parts of the pictures, for one of N jobs.")
    ] = "1/1",
    data_root: DataRoot = None,
    device: Devices = "auto",
    precision: Precision = "fp32",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures at once; the same for all shards and the run.")
    ] = 64,
    workers: Workers = 2,
    cache: Annotated[
        str, typer.Option(help="use, or refresh: embed again what is stored.")
    ] = "use",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Embed a task's pictures into the store, all or a shard.

    N jobs, each with a shard, share one store (CIRBENCH_CACHE); bench run then finds all pictures
    in it, with the bits that it would have made.
    """
    from cirbench.benchmark.embedding.share import Share
    from cirbench.benchmark.evaluation.plan import Request, plan

    share = Share.parse(shard)
    if cache not in ("use", "refresh"):
        raise UsageError(f"the cache mode of bench embed must be use or refresh, got {cache}")
    made = plan(
        Request(
            methods=(),
            task=task,
            split=split,
            protocol=protocol,
            backbone=backbone,
            data_root=data_root,
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            cache=cache,
        )
    )
    share.check(made.pictures)
    several = len(made.devices) > 1
    if several and share.count > 1:
        raise UsageError(
            "choose --shard, or several devices; jobs with shards have one device each"
        )
    # what follows takes seconds to import, which a mistake need not wait for
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.devices import embed_on_each
    from cirbench.benchmark.evaluation.embed import embed_share
    from cirbench.benchmark.runtime.progress import Reporter

    reporter = Reporter(quiet=quiet)
    if several:
        stored = embed_on_each(made, reporter)
    else:
        loaded = load_backbone(made.backbone, device=made.device, precision=precision)
        stored = embed_share(made, [loaded], share, reporter)
    if as_json:
        print_json({"shard": str(share), **asdict(stored)})
        return
    print(
        f"{made.task.name}, {made.backbone}: shard {share} is stored, {stored.passes:,} pictures "
        f"were encoded now, space {', '.join(key[:12] for key in stored.spaces)}"
    )
