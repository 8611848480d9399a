"""`bench train`. Nothing heavy is imported before a command needs it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cirbench.benchmark.cli.options import (
    HELP,
    DataRoot,
    Device,
    Precision,
    Quiet,
    Seed,
    Track,
    Workers,
)
from cirbench.benchmark.cli.seeds import repeat_over_seeds
from cirbench.benchmark.cli.train_own import TrainGroup

trainer = typer.Typer(help="Train a method, or the embedded backbone.", cls=TrainGroup, **HELP)  # type: ignore[arg-type]  # one dict for all apps


@trainer.command(
    "pic2word",
    epilog="Examples: bench train pic2word --images cc3m.tsv -b ViT-L-14/openai -o m.safetensors"
    " · bench train pic2word --images emoji -b emoji-clip --epochs 7 --lr 1e-3 --warmup 20"
    " --seeds 0,1,2 -o 'm-{seed}.safetensors'",
)
@repeat_over_seeds
def train_pic2word(
    images: Annotated[
        str,
        typer.Option(
            help="A folder, a table, webdataset shards ('cc3m/{00000..00331}.tar'), or a task "
            "that has such pictures (emoji, garments)."
        ),
    ],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="bench ls backbones.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.safetensors to write.")],
    data_root: DataRoot = None,
    image_column: Annotated[str, typer.Option(help="The column of paths in a table.")] = "filepath",
    separator: Annotated[
        str | None,
        typer.Option(help="Between the fields of a table; default: a comma in .csv, else a tab."),
    ] = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images that may fail to decode.")
    ] = 0.0,
    validation_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="Images left out of training, to validate on.")
    ] = 0.0,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 500,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Pictures in a batch of all processes together.")
    ] = 128,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures at once; fewer need less memory and give the same gradient."
        ),
    ] = None,
    cache_features: Annotated[
        bool,
        typer.Option("--cache-features", help="No augmentation: each image is encoded only once."),
    ] = False,
    released_gather: Annotated[
        bool,
        typer.Option("--released-gather", help="Divide the gradient by the number of processes."),
    ] = False,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 1e-4,
    wd: Annotated[float, typer.Option(min=0, help="Weight decay, biases excepted.")] = 0.1,
    warmup: Annotated[int, typer.Option(min=0, help="Steps of linear warm-up.")] = 10_000,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: Workers = 2,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 500,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the saved state, if there is one.")
    ] = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Train Pic2Word's mapping network on unlabelled images.

    The defaults are the recipe of the paper's released code. A log and a plot of the loss are
    written beside OUTPUT. Several GPUs: torchrun --no-python --nproc-per-node N bench
    train …, or one Slurm task a GPU.
    """
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.images.sources import find_training_images
    from cirbench.benchmark.records.record import check_writable
    from cirbench.benchmark.runtime.files import check_weights_path
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.trackers.hook import tracking
    from cirbench.benchmark.training.processes import choose_own_device, join_processes
    from cirbench.methods.pic2word.training import Pic2WordJob, Pic2WordRecipe, train
    from cirbench.methods.pic2word.validation import hold_out

    check_weights_path(output)
    check_writable(output.parent)
    refs, label = find_training_images(
        images,
        data_root=data_root,
        column=image_column,
        separator=separator,
        say=Reporter(quiet=quiet).say,
    )
    trained, left_out = hold_out(refs, validation_share, seed)
    where = choose_device(device)
    processes = join_processes(where)
    job = Pic2WordJob(
        recipe=Pic2WordRecipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=lr,
            weight_decay=wd,
            warmup_steps=warmup,
            augment=not cache_features,
            released_gather=released_gather,
            seed=seed,
        ),
        backbone=load_backbone(
            backbone, device=choose_own_device(where, processes), precision=precision
        ),
        images=trained,
        trained_on=label,
        output=output,
        workers=workers,
        checkpoint_every=checkpoint_every,
        processes=processes,
        micro_batch=micro_batch,
        most_unreadable=max_unreadable,
        validation=left_out,
        validate_every=validate_every,
    )
    reporter = Reporter(quiet=quiet or processes.rank > 0)
    listening = [] if processes.rank else track or []
    settings = {**asdict(job.recipe), "backbone": backbone, "images": label}
    with tracking(reporter, listening, training="pic2word", output=output, settings=settings):
        loss = train(job, reporter, resume=resume)
    if processes.rank == 0:
        print(f"{output}: {job.steps} steps on {len(trained)} images, last loss {loss:.4f}")


@trainer.command(
    "tiny-clip",
    epilog="Examples: bench train tiny-clip -t emoji -o my-clip · bench run -m image-only -t emoji"
    " -b local-dir:my-clip · bench train tiny-clip -t garments -o my-clip --data-root ~/data",
)
@repeat_over_seeds
def train_tiny_clip(
    task: Annotated[
        list[str],
        typer.Option(
            "--task", "-t", help="emoji or garments; several for one CLIP of all of them."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    data_root: DataRoot = None,
    seed: Seed = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Default: as many as the shipped models had.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a tiny CLIP from nothing on a task's captions."""
    from cirbench.benchmark.api.registry import find_task
    from cirbench.benchmark.evaluation.lessons_seen import check_apart
    from cirbench.benchmark.records.record import check_writable
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.training.tiny_clip import make_recipe, train

    check_writable(output)
    tasks = [find_task(name)() for name in task]
    check_apart(tasks)
    lessons = [one.lessons(data_root=data_root) for one in tasks]
    asked = {} if steps is None else {"steps": steps}
    recipe = make_recipe(lessons, tasks=tuple(task), seed=seed, **asked)
    with Reporter(quiet=quiet).stage("training", recipe.steps) as stage:
        train(lessons, output, recipe, lambda _step, _loss: stage.advance(1))
    print(output)
