"""Progress of long work: a bar on a terminal or in a notebook, a line every 30 s elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_INTERVAL_SECONDS = 30.0


@dataclass
class _PlainLine:
    """Progress as lines, at most one an interval."""

    label: str
    total: int
    stream: TextIO | None
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    spoken: float = field(default_factory=time.monotonic)

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.stream and now - self.spoken >= PLAIN_INTERVAL_SECONDS:
            self.spoken = now
            elapsed = now - self.started
            left = elapsed / self.done * (self.total - self.done)
            print(
                f"{self.label}: {self.done}/{self.total}, {elapsed:.0f} s, about {left:.0f} s left",
                file=self.stream,
                flush=True,
            )


@dataclass
class _Bar:
    progress: Progress
    task: TaskID

    def advance(self, count: int) -> None:
        self.progress.advance(self.task, count)


class _NotebookBar:
    """IPython's own bar."""

    def __init__(self, label: str, total: int) -> None:
        from IPython.display import ProgressBar, display

        display({"text/plain": label}, raw=True)
        self.bar = ProgressBar(total)
        self.bar.display()

    def advance(self, count: int) -> None:
        self.bar.progress += count


Listener = Callable[[int, Mapping[str, float]], None]
"""What hears a step and its numbers."""
Stage = _PlainLine | _Bar | _NotebookBar
"""What a piece of work tells its progress to."""


class Reporter:
    """Where progress and chatter go; never standard output, which is for data."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True)
        self.listeners: list[Listener] = []

    @classmethod
    def for_python(cls) -> Reporter:
        """Quiet, unless in a notebook or on a terminal."""
        reporter = cls()
        reporter.quiet = not (reporter.console.is_jupyter or reporter.console.is_terminal)
        return reporter

    def say(self, message: str) -> None:
        """Print a line for the person, unless they asked for quiet."""
        if not self.quiet:
            self.console.print(message, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def tell(self, step: int, **numbers: float) -> None:
        """Tell who listens the numbers of a step or an epoch, counted from 1.

        No fault of a listener may cost the work: it is told, and that one hears no more.
        """
        for listener in list(self.listeners):
            try:
                listener(step, numbers)
            except Exception as error:
                self.listeners.remove(listener)
                self.say(f"a tracker failed and is left out ({type(error).__name__}: {error})")

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Stage]:
        """Show the progress of `total` items; call `advance(n)` on what is yielded."""
        if self.console.is_jupyter and not self.quiet:
            yield _NotebookBar(label, total)
            return
        if self.quiet or not self.console.is_terminal:
            yield _PlainLine(label, total, None if self.quiet else sys.stderr)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(
            *columns, console=self.console, redirect_stdout=False, redirect_stderr=False
        ) as progress:
            yield _Bar(progress, progress.add_task(label, total=total))
