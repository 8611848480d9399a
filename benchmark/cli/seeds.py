"""Several seeds in one command. Nothing heavy is imported before a command needs it."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from cirbench.benchmark.runtime.errors import UsageError

Seeds = Annotated[
    str | None, typer.Option(help="Several in place of --seed, such as 0,1,2, one after the other.")
]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds separated by commas, each once.

    Raises:
        UsageError: one is no seed, or there is none.
    """
    from cirbench.benchmark.api.values import HIGHEST_SEED

    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) <= HIGHEST_SEED):
            raise UsageError(
                f"--seeds must be whole numbers from 0 to {HIGHEST_SEED}, separated by commas, got "
                f"{word!r}"
            )
    return tuple(dict.fromkeys(map(int, words)))


def repeat_over_seeds(train: Callable[..., None]) -> Callable[..., None]:
    """Give a training's command --seeds: {seed} in --output stands for each in turn."""
    given = inspect.signature(train)
    kind = inspect.Parameter.KEYWORD_ONLY
    option = inspect.Parameter("seeds", kind, default=None, annotation=Seeds)

    @wraps(train)
    def each(*, seeds: str | None = None, **asked: Any) -> None:
        if seeds is None:
            train(**asked)
            return
        output = str(asked["output"])
        if "{seed}" not in output:
            raise UsageError(
                f"--output must have {{seed}} in it where several seeds are trained, got {output}"
            )
        for seed in parse_seeds(seeds):
            path = Path(output.replace("{seed}", str(seed)))
            train(**{**asked, "seed": seed, "output": path})

    own = [parameter.replace(kind=kind) for parameter in given.parameters.values()]
    each.__signature__ = given.replace(parameters=[*own, option])  # type: ignore[attr-defined]  # what typer reads
    each.__annotations__ = {**train.__annotations__, "seeds": Seeds}
    return each
