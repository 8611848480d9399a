"""The picture of a training: its loss over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cirbench.benchmark.runtime.figures import COLOURS, STYLE, render_png
from cirbench.benchmark.runtime.files import write_whole

_SMOOTHED_SHARE = 0.05


def write_loss_plot(
    path: Path, losses: Sequence[float], validation: Sequence[tuple[int, float]] = ()
) -> None:
    """Draw every step's loss, its running mean over a twentieth of the training, as PNG.

    Args:
        validation: (step, loss) on pictures that were left out.
    """
    values = np.asarray(losses)
    width = max(1, round(len(values) * _SMOOTHED_SHARE))
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    steps = np.arange(1, len(values) + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=0.8, label="each step")
        axes.plot(steps[width - 1 :], smooth, color=COLOURS[0], label=f"mean of {width}")
        if validation:
            places, held_out = zip(*validation, strict=True)
            axes.plot(places, held_out, "o-", color=COLOURS[5], markersize=3, label="held out")
        axes.set_xlabel("step")
        axes.set_ylabel("contrastive loss")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    with write_whole(path) as temporary:
        temporary.write_bytes(render_png(figure))
