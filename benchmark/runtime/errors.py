"""What can go wrong for a user, each with its documented exit code.

| code | meaning |
|---|---|
| 0 | ok |
| 1 | a cell failed, or a check is out of tolerance |
| 2 | usage: a name, an option or a value is wrong |
| 3 | data or weights are missing |
| 4 | data, a checkpoint or a record is corrupt |
| 70 | a fault of bench itself, with a traceback |
| 130 | interrupted |
"""

from __future__ import annotations

UNFORESEEN = 70
"""EX_SOFTWARE of sysexits.h: never taken for a check's answer."""


class CirbenchError(Exception):
    """An error that a user can act on: what failed, why, and what mends it."""

    exit_code = 1


class CheckFailed(CirbenchError):
    """A check ran and its answer is no."""


class UsageError(CirbenchError):
    """A name, an option or a value is wrong."""

    exit_code = 2


class TextTooLong(UsageError):
    """A text exceeds a backbone's context.

    Attributes:
        text: the first such text.
    """

    def __init__(self, text: str, message: str) -> None:
        super().__init__(message)
        self.text = text


class MissingData(CirbenchError):
    """Data or weights that the work needs are not there."""

    exit_code = 3


class CorruptData(CirbenchError):
    """Data, a checkpoint or a record is there and can't be trusted."""

    exit_code = 4
