"""Mistakes in a file a person wrote, gathered so that all of them are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cirbench.benchmark.runtime.errors import CirbenchError, UsageError


class Mistakes:
    """A list that is told in one error."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, mistake: str) -> None:
        """Notes one; the same mistake in many cells is told once."""
        if mistake not in self.found:
            self.found.append(mistake)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What a block raises for a person becomes one of the mistakes."""
        try:
            yield
        except CirbenchError as error:
            self.add(str(error))

    def unknown_keys(self, table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
        """Notes each key that means nothing, with the one that was probably meant."""
        names = list(known)
        for key in sorted(set(table) - set(names)):
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
            self.add(f"{where}: unknown key {key!r}; {hint}")

    def tell(self) -> None:
        """Raises UsageError with all of them, if there are any."""
        if len(self.found) == 1:
            raise UsageError(f"{self.where}: {self.found[0]}")
        if self.found:
            lines = "".join(f"\n  - {mistake}" for mistake in self.found)
            raise UsageError(f"{self.where} has {len(self.found)} mistakes:{lines}")
