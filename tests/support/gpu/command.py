"""The command: runs the parts one after the other, and writes after everything they find."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.files import write_whole
from gpu.page import draw_page


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the run.

    Attributes:
        function: module:name of a generator of findings, which takes a `Setting`.
        seconds: after so many it is stopped; what it has found by then is kept.
    """

    title: str
    function: str
    seconds: int


PARTS = {
    "correctness": Part(
        title="The same numbers as on the CPU",
        function="gpu.correctness:check_correctness",
        seconds=105,
    ),
    "training": Part(title="Training", function="gpu.training:check_training", seconds=65),
    "embedding": Part(
        title="Embedding pictures", function="gpu.embedding:measure_embedding", seconds=75
    ),
    "ranking": Part(title="Ranking", function="gpu.ranking:measure_ranking", seconds=45),
    "compile": Part(title="torch.compile", function="gpu.embedding:measure_compile", seconds=55),
}
"""In the order in which they run; together they stay below six minutes."""


class Results:
    """results/gpu.json and gpu.md, rewritten whole whenever something is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine: dict[str, Any] = {}
        self.parts: dict[str, dict[str, Any]] = {}
        self._earlier: dict[str, Any] = {}
        path = folder / "gpu.json"
        with suppress(FileNotFoundError, ValueError):
            self._earlier = json.loads(path.read_text(encoding="utf-8"))

    def know_machine(self, machine: Mapping[str, Any]) -> None:
        """Set the machine; parts of an earlier run stay if they were made on the same."""
        self.machine = dict(machine)
        if self._earlier.get("machine") == self.machine:
            earlier = {part["name"]: part for part in self._earlier["parts"]}
            self.parts = {**earlier, **self.parts}

    def begin(self, name: str) -> dict[str, Any]:
        """An empty part in the place of an earlier one."""
        part: dict[str, Any] = {
            "name": name,
            "title": PARTS[name].title,
            "commit": None,
            "seconds": 0.0,
            "peak": {},
            "findings": [],
            "error": None,
        }
        self.parts[name] = part
        return part

    def write(self) -> None:
        """Both files, each whole or not at all; nothing before it is known on which machine."""
        if not self.machine:
            return
        known = [self.parts[name] for name in PARTS if name in self.parts]
        results = {"machine": self.machine, "parts": known}
        texts = {
            "gpu.json": json.dumps(results, indent=2, ensure_ascii=False) + "\n",
            "gpu.md": draw_page(results),
        }
        for name, text in texts.items():
            with write_whole(self.folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def run_part(results: Results, name: str, device: str, seconds: float) -> None:
    """Run a part in a process of its own, and write each thing that it tells."""
    part, started = results.begin(name), time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        command = [sys.executable, "-P", "-m", "gpu", "--device", device, "--inside", name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max(0.0, seconds), stop)
        timer.start()
        assert process.stdout is not None  # it is a pipe
        try:
            for line in process.stdout:
                with suppress(ValueError):  # the last line of a process that was killed
                    _take(results, part, json.loads(line))
                part["seconds"] = round(time.monotonic() - started, 1)
                results.write()
            process.wait()
        finally:
            timer.cancel()
            process.kill()
        if late.is_set():
            part["error"] = f"stopped after {seconds:.0f} s; what follows was not measured"
        elif process.returncode and not part["error"]:
            stderr.seek(0)
            words = " ".join(stderr.read().split()[-40:])
            part["error"] = f"the process ended with status {process.returncode}: {words}"
    part["seconds"] = round(time.monotonic() - started, 1)
    results.write()
    print(f"{name}: {part['seconds']} s, {part['error'] or 'done'}", flush=True)


def _take(results: Results, part: dict[str, Any], told: Mapping[str, Any]) -> None:
    for kind, value in told.items():
        if kind == "finding":
            part["findings"].append(value)
            print(f"  {value['what']}: {value['shown']} {value['target']}", flush=True)
        elif kind == "machine":
            results.know_machine(value)
        else:
            part[kind] = value


def tell_part(name: str, device: str, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Run a part here, telling of each thing that is found; an error ends it in one sentence."""
    import perf  # noqa: F401 - sets what must be set before torch is imported

    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.runtime.provenance import read_code_state
    from gpu.findings import SMALL, Setting, Sizes, describe_machine, measure_peak, say_error

    try:
        choose_device(device)
        tell({"machine": describe_machine(device), "commit": read_code_state()["commit"]})
        with tempfile.TemporaryDirectory() as folder:
            sizes = SMALL if device == "cpu" else Sizes()
            setting = Setting(device=device, folder=Path(folder), sizes=sizes)
            for finding in _find_function(PARTS[name])(setting):
                tell({"finding": asdict(finding), "peak": measure_peak()})
        tell({"peak": measure_peak()})
    except Exception as error:  # whatever it is, it is a result of the run
        tell({"error": say_error(error)})
        raise


def _find_function(part: Part) -> Callable[[Any], Iterator[Any]]:
    module, _, name = part.function.partition(":")
    function: Callable[[Any], Iterator[Any]] = getattr(import_module(module), name)
    return function


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m gpu", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=Path("results"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--device", default="cuda", help="cpu: small sizes, to try the script")
    parser.add_argument("--seconds", type=float, default=345, help="for all parts together")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line says."""
    options = _parse(arguments)
    if options.inside:
        # what libraries print must not get between the lines of JSON
        with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
            os.dup2(2, 1)
            tell_part(
                options.inside,
                options.device,
                lambda told: print(json.dumps(told), file=lines, flush=True),
            )
        return
    results, ends = Results(options.output), time.monotonic() + options.seconds
    for name in options.parts:
        left = min(PARTS[name].seconds, ends - time.monotonic())
        run_part(results, name, options.device, left)
    broken = [name for name in options.parts if results.parts[name]["error"]]
    print(f"{options.output / 'gpu.md'} is written; {len(broken)} parts did not end")
    sys.exit(bool(broken))
