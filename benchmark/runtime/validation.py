"""What is wrong in a file that a person wrote, gathered so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic import ValidationError as PydanticError

from cirbench.benchmark.runtime.errors import CirbenchError, UsageError
from cirbench.benchmark.runtime.hints import suggest


class Table(BaseModel):
    """A table of such a file; each field's description says what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Kind = TypeVar("Kind", bound=Table)


class ValidationErrors:
    """A list that is told in one error."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, message: str) -> None:
        """Note one; the same in many cells is told once."""
        if message not in self.found:
            self.found.append(message)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note what a block raises for a person."""
        try:
            yield
        except CirbenchError as error:
            self.add(str(error))

    def validate(self, kind: type[Kind], content: Mapping[str, Any], where: str = "") -> Kind:
        """Hold a table to its model; a key that is wrong is noted, and then left out.

        Args:
            where: the table as the file writes it, such as "[settings]"; none at the top.
        """
        try:
            return kind.model_validate(content)
        except PydanticError as error:
            wrong = {str(found["loc"][0]): found["type"] for found in error.errors()}
        for key, problem in wrong.items():
            self.add((f"{where}: " if where else "") + _say(kind, content, key, problem))
        return self.validate(kind, {k: v for k, v in content.items() if k not in wrong}, where)

    def raise_if_any(self) -> None:
        """Raise UsageError with all of them, if there are any."""
        if len(self.found) == 1:
            raise UsageError(f"{self.where}: {self.found[0]}")
        if self.found:
            lines = "".join(f"\n  - {message}" for message in self.found)
            raise UsageError(f"{self.where} has {len(self.found)} mistakes:{lines}")


def _say(kind: type[Table], content: Mapping[str, Any], key: str, problem: str) -> str:
    if problem == "extra_forbidden":
        return f"unknown key {key!r}; {suggest(key, kind.model_fields)}"
    return f"{key} must be {kind.model_fields[key].description}, got {content[key]!r}"
