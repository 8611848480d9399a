"""From what a person asked for to a plan: defaults filled in, mistakes found before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import (
    backbone_entry,
    expand_task,
    find_method,
    find_task,
    loadable_methods,
    methods,
    tasks,
)
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import Mode, TaskData
from cirbench.benchmark.api.weights import ReleasedWeights
from cirbench.benchmark.data.check import find_unreadable
from cirbench.benchmark.data.made import REMARK, is_made
from cirbench.benchmark.data.subsets import limit_queries, remove_pictures
from cirbench.benchmark.evaluation.lessons_seen import check_unseen
from cirbench.benchmark.evaluation.released import find_file, tell_how
from cirbench.benchmark.evaluation.weights import find_backbone_of, find_weights
from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file
from cirbench.benchmark.runtime.hints import suggest
from cirbench.benchmark.runtime.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for; None means the task's or the machine's own default."""

    methods: tuple[str | type[Method], ...]
    """Names, or classes of one's own; "all" stands for every method that has its weights here."""
    task: str | Task
    split: str | None = None
    protocol: str | None = None
    backbone: str | Backbone | None = None
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    """Method → its weights; needed where none are shipped or released."""
    data_root: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int = 64
    workers: int = 2
    seed: int = 0
    label: str | None = None
    """What a person calls this run's records, to tell them from others."""
    limit: int | None = None
    allow_missing: bool = False
    cache: str = "use"
    output: Path = Path("results")

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Request:
        """Make a request of plain values, as JSON or a caller has them: texts become paths.

        Raises:
            UsageError: a setting is not known.
        """
        known = [setting.name for setting in fields(cls)]
        if unknown := [name for name in settings if name not in known]:
            raise UsageError(f"unknown setting {unknown[0]!r}; {suggest(unknown[0], known)}")
        paths = {
            name: Path(settings[name])
            for name in ("data_root", "output")
            if settings.get(name) is not None
        }
        checkpoints = settings.get("checkpoints", {})
        named = {method: Path(path) for method, path in checkpoints.items()}
        methods = tuple(settings["methods"])
        return cls(**{**settings, **paths, "methods": methods, "checkpoints": named})


@dataclass(frozen=True, kw_only=True)
class PlannedMethod:
    """A method that runs, and its weights.

    Attributes:
        checkpoint: a file, or released weights, which are fetched when the plan is run.
        own: the class, where it was handed in and is not in the registry.
    """

    name: str
    checkpoint: Path | ReleasedWeights | None = None
    own: type[Method] | None = None

    def load(self) -> type[Method]:
        """Import its class."""
        found: type[Method] = self.own or find_method(self.name)
        return found


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with every default filled in and the annotations read; no picture opened.

    Attributes:
        backbone: its name.
        made: whether the data are made up, and no task's own.
        loaded: the backbone itself, where it was handed in.
    """

    request: Request
    methods: tuple[PlannedMethod, ...]
    task: Task
    split: str
    protocol: EvaluationProtocol
    backbone: str
    data: TaskData
    made: bool = False
    loaded: Backbone | None = None

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """Those that are asked for, or this machine's best; the first does what one alone does."""
        return choose_devices(self.request.device)

    @property
    def device(self) -> str:
        """The one that composes and ranks."""
        return self.devices[0]

    @property
    def ranking_device(self) -> str:
        """Where the gallery is ranked: exact scores need float64, which Apple's GPUs lack."""
        return "cpu" if self.device.startswith("mps") else self.device

    @property
    def pictures(self) -> int:
        """How many pictures the image tower sees at most: what is stored is not encoded again."""
        return len(self.data.pictures)

    @property
    def partial(self) -> bool:
        """Whether queries or pictures are left out: then its numbers are nobody else's."""
        return self.request.limit is not None or bool(self.data.missing)

    @property
    def released(self) -> bool:
        """Whether the annotations are those that published numbers were measured on."""
        expected = self.task.released.get(self.split)
        if self.partial or self.made:
            return False
        return bool(expected and expected.matches(self.data, self.protocol))

    @property
    def output(self) -> Path:
        """Where records go; partial ones never among the others."""
        folder = self.request.output
        if not self.partial:
            return folder
        return folder.parent / f"{folder.name or folder.resolve().name}-partial"


IMPORTED = "imported"
"""What stands for a backbone of which only the vectors or the answers are here."""


def choose_device(name: str) -> str:
    """`auto` is the first GPU where there is one: of CUDA, else Apple's (mps).

    Raises:
        UsageError: the one that is asked for can't be used.
    """
    if name == "cpu":
        return name
    import torch  # takes seconds, which a plan on the CPU does without

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); try --device auto"
        ) from error
    return name


def choose_devices(names: str) -> tuple[str, ...]:
    """Choose one or several devices, as "cuda:0,cuda:1" has them.

    Raises:
        UsageError: one can't be used, or they are not all of one kind.
    """
    devices = tuple(map(choose_device, names.split(",")))
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise UsageError(
            f"several devices must be of one kind, got {names}: a CPU's embeddings are not a GPU's"
        )
    return devices


def plan(request: Request) -> Plan:
    """Fills in the defaults, reads the annotations, and finds every mistake that can be found yet.

    Raises:
        UsageError, MissingData, CorruptData: as their classes say.
    """
    task = _find_task(request.task)
    wanted = request.backbone
    loaded = None if wanted is None or isinstance(wanted, str) else wanted
    backbone = loaded.name if loaded else _choose_backbone(request, task)
    check_unseen(task, backbone)
    chosen = plan_methods(request, backbone)
    for name in request.checkpoints:
        if name not in {method.name for method in chosen}:
            raise UsageError(f"--checkpoint {name}=…, but {name} is not among the methods")
    split = _choice("split", request.split, task.splits)
    protocol = task.protocols[_choice("protocol", request.protocol, tuple(task.protocols))]
    _choice("cache mode", request.cache, tuple(Mode))
    if request.device != "auto":
        several = len(choose_devices(request.device)) > 1
        if several and request.cache not in (Mode.USE, Mode.REFRESH):
            raise UsageError(
                "several devices share their work through the store of embeddings: the cache mode "
                f"must be use or refresh, got {request.cache}"
            )
    try:
        data = task.load(protocol=protocol, split=split, data_root=request.data_root)
    except MissingData as error:
        raise MissingData("\n  ".join([str(error), *_tell_of_weights(chosen)])) from error
    if not data.gallery or not data.queries:
        raise MissingData(
            f"task {task.name}, split {split}: {len(data.gallery)} gallery images and "
            f"{len(data.queries)} queries; check --data-root"
        )
    if not request.allow_missing:
        check_whole(task, data)
    made = is_made(request.data_root, task.places)
    if made:
        data = replace(data, remarks=(*data.remarks, REMARK))
    data = remove_pictures(data, data.missing) if data.missing else data
    if request.limit is not None:
        data = limit_queries(data, request.limit)
    return Plan(
        request=request,
        methods=chosen,
        task=task,
        split=split,
        protocol=protocol,
        backbone=backbone,
        data=data,
        made=made,
        loaded=loaded,
    )


def plan_import(request: Request) -> Plan:
    """A plan of a task's queries and gallery alone: no method, and no picture need be there.

    Raises:
        UsageError, MissingData, CorruptData: as their classes say.
    """
    task = _find_task(request.task)
    split = _choice("split", request.split, task.splits)
    protocol = task.protocols[_choice("protocol", request.protocol, tuple(task.protocols))]
    data = task.load(protocol=protocol, split=split, data_root=request.data_root)
    return Plan(
        request=request,
        methods=(),
        task=task,
        split=split,
        protocol=protocol,
        backbone=IMPORTED,
        data=replace(data, missing={}),
        made=is_made(request.data_root, task.places),
    )


def _tell_of_weights(chosen: Sequence[PlannedMethod]) -> list[str]:
    """Tell of weights that are not here either, beside data that is not."""
    rows = [method.checkpoint for method in chosen]
    return [
        f"{row.method} will fetch {row.file}; where there is no network, {tell_how(row)}"
        for row in rows
        if isinstance(row, ReleasedWeights) and not find_file(row)
    ]


def _choose_backbone(request: Request, task: Task) -> str:
    """The name of the one asked for, else that of the weights, else the task's."""
    wanted = request.backbone if isinstance(request.backbone, str) else None
    found = find_backbone_of(wanted, request.checkpoints.values())
    name = task.default_backbone if found is None else found
    backbone_entry(name)
    return name


def _find_task(wanted: str | Task) -> Task:
    if isinstance(wanted, str):
        found: Task = find_task(wanted)()
        return found
    if wanted.name in tasks() and not isinstance(wanted, find_task(wanted.name)):
        raise UsageError(f"a task of your own must not be named {wanted.name!r}, as another is")
    return wanted


def plan_each(request: Request) -> list[Plan]:
    """A plan; one of each embedded task for "embedded", and of each protocol for "all".

    Raises what `plan` does.
    """
    tasks = expand_task(request.task) if isinstance(request.task, str) else [request.task]
    return [
        plan(replace(request, task=task, protocol=name))
        for task in tasks
        for name in _expand_protocol(task, request.protocol)
    ]


def plan_seeds(request: Request, seeds: Sequence[int]) -> list[Plan]:
    """Plans of each seed in turn; {seed} in the path of a checkpoint is the seed.

    Methods without weights are planned with the first seed alone: nothing of them is random.

    Raises what `plan` does.
    """
    plans = []
    for seed in seeds:
        files = {
            method: Path(str(path).replace("{seed}", str(seed)))
            for method, path in request.checkpoints.items()
        }
        for one in plan_each(replace(request, seed=seed, checkpoints=files)):
            again = seed != seeds[0]
            methods = tuple(m for m in one.methods if m.checkpoint or not again)
            if methods:
                plans.append(replace(one, methods=methods))
    return plans


def _expand_protocol(task: str | Task, name: str | None) -> Sequence[str | None]:
    return list(_find_task(task).protocols) if name == "all" else [name]


def plan_methods(request: Request, backbone: str) -> tuple[PlannedMethod, ...]:
    """The methods, each once, "all" spelled out, each with its weights.

    Raises:
        UsageError: a name is not known, or one's own method has the name of a registered one.
        MissingData: a method needs weights, and they are not there.
    """
    own = {method.name: method for method in request.methods if not isinstance(method, str)}
    names = [method if isinstance(method, str) else method.name for method in request.methods]
    if taken := sorted(own.keys() & methods().keys()):
        raise UsageError(f"a method of your own must not be named {taken[0]!r}, as another is")
    if "all" in names:
        names = [*_runnable(request, backbone), *own]
    return tuple(
        _plan_own(own[name], request.checkpoints)
        if name in own
        else PlannedMethod(name=name, checkpoint=find_weights(name, backbone, request.checkpoints))
        for name in dict.fromkeys(names)
    )


def _plan_own(method: type[Method], checkpoints: Mapping[str, Path]) -> PlannedMethod:
    path = checkpoints.get(method.name)
    if path:
        check_is_file(path, "checkpoint")
    elif method.needs_checkpoint:
        raise MissingData(f"{method.name} needs its weights: checkpoints={{{method.name!r}: FILE}}")
    return PlannedMethod(name=method.name, checkpoint=path, own=method)


def _runnable(request: Request, backbone: str) -> list[str]:
    """Every method that can be loaded and has its weights."""

    def has_weights(name: str) -> bool:
        if name in request.checkpoints:
            return True  # a file that is not there is told of later
        try:
            found = find_weights(name, backbone, request.checkpoints)
        except MissingData:
            return False
        return not isinstance(found, ReleasedWeights) or find_file(found) is not None

    return list(filter(has_weights, loadable_methods()))


def _choice(kind: str, wanted: str | None, known: Sequence[str]) -> str:
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise UsageError(f"unknown {kind} {wanted!r}; known: {', '.join(known)}")
    return wanted


def check_whole(task: Task, data: TaskData) -> None:
    """Every picture that the annotations name must be there.

    Raises:
        MissingData: some are not; says how many, and the first.
    """
    if data.missing:
        name, path = next(iter(data.missing.items()))
        raise MissingData(
            f"{len(data.missing):,} of {len(data.pictures):,} pictures of {task.name} are not "
            f"there, the first is {name} ({path}); a gallery that is not whole gives other "
            f"numbers. bench data check {task.name} names them all; --allow-missing runs without "
            f"them, into a partial record"
        )


def without_unreadable(plan: Plan, reporter: Reporter) -> Plan:
    """The plan without the pictures that can't be decoded, which then count as missing."""
    with reporter.stage("decoding every picture", plan.pictures) as stage:
        faults = find_unreadable(plan.data, stage, plan.request.workers)
    for fault in faults.values():
        reporter.say(f"left out: {fault}")
    data = replace(plan.data, missing={**plan.data.missing, **faults})
    return replace(plan, data=remove_pictures(data, faults))
