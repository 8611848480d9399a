"""What hears a training's numbers, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.runtime.hints import suggest
from cirbench.benchmark.runtime.progress import Reporter

TRACKERS: Mapping[str, str] = {
    "tensorboard": "cirbench.benchmark.trackers.tensorboard:TensorBoardHook",
    "wandb": "cirbench.benchmark.trackers.wandb:WandbHook",
    "mlflow": "cirbench.benchmark.trackers.mlflow:MlflowHook",
    "trackio": "cirbench.benchmark.trackers.trackio:TrackioHook",
}
"""Name → where its hook is."""


class TrainingHook(ABC):
    """Hears the numbers of one training.

    Args:
        name: of the training, such as "pic2word".
        folder: where it may write; it need not be there yet.
        settings: what was asked for; plain values.

    Examples:
        >>> from pathlib import Path
        >>> from cirbench.hooks import TrainingHook
        >>> class Printed(TrainingHook):
        ...     def log(self, step, numbers):
        ...         print(step, dict(numbers))
        >>> Printed("pic2word", Path("tracked"), {}).log(1, {"loss": 0.5})
        1 {'loss': 0.5}
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.name, self.folder, self.settings = name, folder, settings

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hear the numbers of a step or an epoch, counted from 1."""

    def close(self) -> None:
        """Hear that the training has ended, well or not."""
        return


def find_hook(name: str) -> type[TrainingHook]:
    """Import a hook's class, by a known name or as `module:Class`.

    Raises:
        UsageError: there is no such hook.
    """
    module, _, attribute = TRACKERS.get(name, name).partition(":")
    if not attribute:
        raise UsageError(
            f"unknown tracker {name!r} (your own is MODULE:CLASS); {suggest(name, list(TRACKERS))}"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the tracker {name} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, TrainingHook)):
        raise UsageError(f"the tracker {name} must be a class derived from TrainingHook")
    return found


def import_library(name: str) -> Any:
    """Import a tracker's own library.

    Raises:
        MissingData: it is not installed; says how to.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingData(
            f"the tracker needs a package that is not here ({error}): pip install {package}"
        ) from error


@contextmanager
def tracking(
    reporter: Reporter,
    names: Sequence[str],
    *,
    training: str,
    output: Path,
    settings: Mapping[str, Any],
) -> Iterator[Reporter]:
    """Let hooks hear what a training tells its reporter; they write beside its output.

    Raises:
        UsageError, MissingData: as `find_hook` and `import_library`.
    """
    folder = output.with_suffix(".tracked")
    classes = [(name, find_hook(name)) for name in dict.fromkeys(names)]
    with ExitStack() as stack:
        for name, hook in classes:
            one = hook(training, folder / name.rpartition(":")[2], settings)
            stack.callback(one.close)
            reporter.listeners.append(one.log)
        yield reporter
