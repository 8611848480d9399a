"""One gallery over several devices of this machine: a process each embeds its share.

They share their work through the store of embeddings, as jobs of a cluster do; what comes after
runs on the first device and finds every picture there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from cirbench.benchmark.embedding.pictures import Stored
from cirbench.benchmark.embedding.share import Share, count_shares
from cirbench.benchmark.evaluation.embed import embed_request
from cirbench.benchmark.evaluation.plan import Plan
from cirbench.benchmark.runtime.errors import CheckFailed, CirbenchError, UsageError
from cirbench.benchmark.runtime.progress import Reporter

MODULE = "cirbench.benchmark.evaluation.devices"
_ERROR = "error: "
_POLL_SECONDS = 0.1
_TOLD = (
    "task",
    "split",
    "protocol",
    "data_root",
    "precision",
    "batch_size",
    "workers",
    "limit",
    "allow_missing",
    "cache",
)
"""Fields of a request that decide which pictures are embedded, and how."""


class _Process:
    """A process that embeds a share; what it says is passed on with its device."""

    def __init__(self, device: str, request: dict[str, object], reporter: Reporter) -> None:
        self.device, self.reporter, self.last = device, reporter, ""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, json.dumps({**request, "device": device})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            self.last = line.rstrip()
            if not line.startswith(("{", _ERROR)):
                self.reporter.say(f"{self.device}: {self.last}")

    def has_ended(self) -> bool:
        """Whether it is done.

        Raises:
            CirbenchError: what it ended in.
        """
        code = self.process.poll()
        if code is None:
            return False
        self.listener.join()
        if code < 0:
            name = signal.Signals(-code).name
            raise CheckFailed(
                f"the process on {self.device} was killed ({name}); run again: what was embedded "
                "is kept"
            )
        if code:
            if not self.last.startswith(_ERROR):
                raise RuntimeError(f"the process on {self.device} ended with {code}: {self.last}")
            kinds = {kind.exit_code: kind for kind in CirbenchError.__subclasses__()}
            raise kinds[code](f"on {self.device}: {self.last.removeprefix(_ERROR)}")
        return True

    def read_result(self) -> Stored:
        """What it stored."""
        told = json.loads(self.last)
        return Stored(spaces=tuple(told["spaces"]), passes=told["passes"])

    def end(self) -> None:
        """End it, if it has not; a piece in work is lost, what is stored stays."""
        self.process.terminate()
        self.process.wait()
        self.listener.join()


def embed_on_each(plan: Plan, reporter: Reporter) -> Stored:
    """Embed a plan's pictures on its devices, into the store.

    Where one process fails, the others are ended.

    Raises:
        UsageError: there are more devices than pictures, or the task or the backbone was handed in
            and has no name by which another process could load it.
        CirbenchError: what a process ended in.
    """
    request, devices = plan.request, plan.devices
    if not isinstance(request.task, str) or plan.loaded:
        raise UsageError(
            "with several devices, task and backbone must be given by name, since other processes "
            "load them"
        )
    Share(1, len(devices)).check(plan.pictures)
    told = {name: getattr(request, name) for name in _TOLD} | {"backbone": plan.backbone}
    told = {k: str(v) if isinstance(v, Path) else v for k, v in told.items()}
    count = count_shares(plan.pictures, len(devices), request.batch_size)
    processes: list[_Process] = []
    try:
        for number, device in enumerate(devices[:count], 1):
            own = {**told, "methods": [], "shard": str(Share(number, count))}
            processes.append(_Process(device, own, reporter))
        while [process for process in processes if not process.has_ended()]:
            time.sleep(_POLL_SECONDS)
        results = [process.read_result() for process in processes]
        return replace(results[0], passes=sum(result.passes for result in results))
    finally:
        for process in processes:
            process.end()


def main() -> None:
    """Embed the share that the command line asks for as JSON, and say as JSON what it was."""
    try:
        stored = embed_request(json.loads(sys.argv[1]), Reporter())
    except KeyboardInterrupt:
        sys.exit(130)
    except CirbenchError as error:
        sys.stderr.write(f"{_ERROR}{' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"{json.dumps(asdict(stored))}\n")


if __name__ == "__main__":
    main()
