"""Rules, tried one after the other, whatever each of them raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cirbench.benchmark.runtime.errors import CheckFailed, CirbenchError

Tried = TypeVar("Tried")
Rules = Mapping[str, Callable[[Tried], str | None]]
"""What must hold → a function that gives what falls short, or None."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule, and what falls short of it; None where it holds."""

    rule: str
    fault: str | None


def try_rules(rules: Rules[Tried], tried: Tried) -> list[Finding]:
    """Try every rule; what one raises is its fault, and the others are still tried."""
    return [Finding(rule=rule, fault=_find_fault(find, tried)) for rule, find in rules.items()]


def _find_fault(find: Callable[[Tried], str | None], tried: Tried) -> str | None:
    try:
        return find(tried)
    except CirbenchError as error:
        return str(error)
    except Exception as error:  # a stranger's code may raise anything
        return f"{type(error).__name__}: {error}"


def raise_faults(name: str, findings: Sequence[Finding]) -> None:
    """Raise CheckFailed with every fault, if there is one."""
    if faults := [f"{found.rule}: {found.fault}" for found in findings if found.fault]:
        raise CheckFailed(f"{name} falls short of its contract: {'; '.join(faults)}")
