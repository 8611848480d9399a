"""`bench train combiner` and `clip-sum`. Nothing heavy is imported before a command needs it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cirbench.benchmark.cli.options import DataRoot, Device, Precision, Quiet, Seed, Track, Workers
from cirbench.benchmark.cli.seeds import repeat_over_seeds
from cirbench.benchmark.runtime.errors import UsageError


@repeat_over_seeds
def train_combiner(
    task: Annotated[str, typer.Option("--task", "-t", help="fashion-iq, cirr or emoji.")],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="bench ls backbones.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.safetensors to write.")],
    data_root: DataRoot = None,
    epochs: Annotated[int, typer.Option(min=1)] = 300,
    batch_size: Annotated[int, typer.Option(min=2, help="At most the number of triplets.")] = 4096,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate, constant.")] = 2e-5,
    projection: Annotated[
        int | None, typer.Option(min=1, help="Projection width; default: 4 × the embedding's.")
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Hidden width; default: 8 × the embedding's.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: Workers = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the saved state, if there is one.")
    ] = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Train the Combiner on a task's triplets, over a frozen CLIP.

    The defaults are the recipe of CLIP4Cir's released code. The epoch that is best on the selection
    split is kept; a log of losses and selection scores is written beside OUTPUT.
    """
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.records.record import check_writable
    from cirbench.benchmark.runtime.files import check_weights_path
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.trackers.hook import tracking
    from cirbench.benchmark.training.selection import find_supervision
    from cirbench.methods.combiner.training import CombinerJob, CombinerRecipe, train

    check_weights_path(output)
    check_writable(output.parent)
    job = CombinerJob(
        **find_supervision(task, data_root),
        recipe=CombinerRecipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=lr,
            projection=projection,
            hidden=hidden,
            seed=seed,
        ),
        backbone=load_backbone(backbone, device=choose_device(device), precision=precision),
        output=output,
        workers=workers,
    )
    reporter = Reporter(quiet=quiet)
    settings = {**asdict(job.recipe), "backbone": backbone, "task": task}
    with tracking(reporter, track or (), training="combiner", output=output, settings=settings):
        best = train(job, reporter, resume=resume)
    print(f"{output}: {len(job.triplets)} triplets, best selection score {best:.2f}")


@repeat_over_seeds
def train_clip_sum(
    task: Annotated[str, typer.Option("--task", "-t", help="fashion-iq, cirr or emoji.")],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="What is fine-tuned.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    data_root: DataRoot = None,
    encoders: Annotated[str, typer.Option(help="both, text or image.")] = "both",
    epochs: Annotated[int, typer.Option(min=1)] = 100,
    batch_size: Annotated[int, typer.Option(min=2, help="At most the number of triplets.")] = 128,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate, constant.")] = 2e-6,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, amp or amp_bf16.")] = "fp32",
    workers: Workers = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last whole epoch, if there is one.")
    ] = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune CLIP so that image plus text is near the target.

    This is the Combiner's first stage. The folder is then a backbone, tuned:FOLDER; a Combiner
    trained over it goes into the folder as combiner.safetensors and is found there.
    """
    from cirbench.benchmark.backbones.base import TorchBackbone
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.backbones.tuned import CLIP_FILE
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.records.record import check_writable
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.trackers.hook import tracking
    from cirbench.benchmark.training.selection import find_supervision
    from cirbench.methods.combiner.clip_training import ClipSumJob, ClipSumRecipe, train

    check_writable(output)
    if precision not in ("fp32", "amp", "amp_bf16"):
        raise UsageError(
            f"--precision must be fp32, amp or amp_bf16 to train CLIP, got {precision}"
        )
    towers = load_backbone(backbone, device=choose_device(device), precision=precision)
    if not isinstance(towers, TorchBackbone):
        raise UsageError(f"only the towers of a torch CLIP can be trained, got {backbone}")
    job = ClipSumJob(
        **find_supervision(task, data_root),
        recipe=ClipSumRecipe(
            epochs=epochs, batch_size=batch_size, learning_rate=lr, encoders=encoders, seed=seed
        ),
        backbone=towers,
        output=output,
        workers=workers,
    )
    reporter = Reporter(quiet=quiet)
    settings = {**asdict(job.recipe), "backbone": backbone, "task": task}
    with tracking(reporter, track or (), training="clip-sum", output=output, settings=settings):
        best = train(job, reporter, resume=resume)
    print(f"{output / CLIP_FILE}: {len(job.triplets)} triplets, best selection score {best:.2f}")
