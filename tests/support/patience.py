"""How long tests wait for what ends by itself: on a busy machine everything takes long."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 600


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Polls often; raises TimeoutError."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {PATIENCE_SECONDS} s")
        time.sleep(0.1)
