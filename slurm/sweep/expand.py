"""From a sweep file to cells: the product of its axes, each cell checked as `bench run` would."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.registry import (
    find_backbone,
    find_task,
    find_training,
    needs_checkpoint,
    split_name,
)
from cirbench.benchmark.api.training import TrainingRequest
from cirbench.benchmark.api.weights import ReleasedWeights
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.embedding.share import Share, count_shares
from cirbench.benchmark.evaluation.plan import Plan, Request, plan
from cirbench.benchmark.evaluation.released import fetch_released
from cirbench.benchmark.evaluation.weights import find_backbone_of, find_weights
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.runtime.errors import CirbenchError, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.validation import ValidationErrors
from cirbench.benchmark.training.selection import find_supervision
from cirbench.benchmark.training.texts import find_training_texts
from cirbench.slurm.cells.manifest import Manifest, SweepCell
from cirbench.slurm.sweep.resources import Profile, choose_resources, matches
from cirbench.slurm.sweep.sweep_file import DEFAULT, Sweep, TrainTable

_SLUG_LENGTH = 24


@dataclass
class Expansion:
    """The work of turning one sweep into cells; answers that cost time are asked once.

    Attributes:
        own_towers: cells of weights that are a backbone themselves, in place of the one they
            started from.
    """

    sweep: Sweep
    profile: Profile
    manifest: Manifest
    data_root: str | None
    errors: ValidationErrors
    plans: dict[tuple[str, str], Plan | None] = field(default_factory=dict)
    pictures: dict[tuple[str, str], int] = field(default_factory=dict)
    hashes: dict[Path, str | None] = field(default_factory=dict)
    fetched: dict[str, Path] = field(default_factory=dict)
    own_towers: set[str] = field(default_factory=set)

    def cells(self) -> list[SweepCell]:
        """Every cell, trainings and embeddings before the runs that need them.

        Raises:
            UsageError: all mistakes in the sweep file, those found while reading it among them.
        """
        trainings = {
            (training.method, training.backbone, seed): self._training(training, seed)
            for training in self._sound_trainings()
            for seed in self.sweep.seeds
        }
        names = list(self._names())
        runs = [cell for n in names if (cell := self._run(n, trainings)) is not None]
        if not runs and not self.errors.found:
            self.errors.add("the sweep is empty after [[exclude]]")
        self.errors.raise_if_any()
        embeddings, runs = self._with_embeddings(runs)
        needed = {id_ for cell in runs for id_ in cell.needs}
        return [*(t for t in trainings.values() if t.id in needed), *embeddings, *runs]

    def _names(self) -> Iterator[dict[str, Any]]:
        """The cells' names by axis, exclusions taken out."""
        used: set[int] = set()
        for task, backbone in itertools.product(self.sweep.tasks, self._backbones()):
            own = find_task(task).default_backbone if backbone == DEFAULT else backbone
            for protocol, method, seed in itertools.product(
                self._protocols(task), self.sweep.methods, self.sweep.seeds
            ):
                names = {
                    "method": method,
                    "task": task,
                    "backbone": own,
                    "protocol": protocol,
                    "seed": seed,
                }
                excluded = [i for i, g in enumerate(self.sweep.exclude) if matches(g, names)]
                used.update(excluded)
                again = seed != self.sweep.seeds[0] and not needs_checkpoint(method)
                if not excluded and not again:  # nothing of a training-free method is random
                    yield names
        for i, globs in enumerate(self.sweep.exclude):
            if i not in used:
                self.errors.add(f"[[exclude]] {json.dumps(globs)} excludes nothing")

    def _backbones(self) -> list[str]:
        sound = []
        for backbone in self.sweep.backbones:
            with self.errors.collect():
                if backbone != DEFAULT:
                    find_backbone(backbone)
                sound.append(backbone)
        return sound

    def _protocols(self, task: str) -> list[str]:
        known = list(find_task(task).protocols)
        found = []
        for wanted in self.sweep.protocols:
            fitting = (
                [known[0]] if wanted == DEFAULT else [n for n in known if fnmatchcase(n, wanted)]
            )
            if not fitting:
                self.errors.add(f"task {task} has no protocol {wanted!r}; {', '.join(known)}")
            found += fitting
        return list(dict.fromkeys(found))

    def _plan(self, task: str, protocol: str) -> Plan | None:
        """The plan without methods: reads annotations, finds missing data."""
        if (task, protocol) not in self.plans:
            self.plans[task, protocol] = None
            settings = self.sweep.settings
            with self.errors.collect():
                made = plan(
                    Request(
                        methods=(),
                        task=task,
                        protocol=protocol,
                        split=settings.get("split"),
                        data_root=Path(self.data_root) if self.data_root else None,
                        device="cpu",
                        limit=settings.get("limit"),
                    )
                )
                self.plans[task, protocol] = replace(made, data=_emptied(made))
                self.pictures[task, protocol] = made.pictures
                with self.errors.collect():
                    Share(1, self.sweep.embed_tasks).check(made.pictures)
        return self.plans[task, protocol]

    def _run(
        self, names: Mapping[str, Any], trainings: Mapping[tuple[str, str, int], SweepCell]
    ) -> SweepCell | None:
        made = self._plan(names["task"], names["protocol"])
        method, backbone, seed = names["method"], names["backbone"], names["seed"]
        training = trainings.get((method, backbone, seed))
        own_name, known_name = split_name(backbone)
        expected = {
            "method": method,
            "task": names["task"],
            "backbone": own_name or known_name,
            "seed": seed,
        }
        if training:
            checkpoint: str | None = str(training.request["output"])
            has_towers = training.id in self.own_towers
            if has_towers:
                expected["checkpoint_file"] = Path(training.request["output"]).name
        else:
            checkpoint, expected["checkpoint"] = self._checkpoint(method, backbone, seed)
            given = [Path(checkpoint)] if checkpoint else []
            has_towers = find_backbone_of(backbone, given) != backbone
        if has_towers or backbone.startswith(("tuned:", "trained:")):
            del expected["backbone"]  # its records bear digits of the weights, not known yet
        if made is None:
            return None
        expected |= {"split": made.split, "protocol": f"{names['protocol']}@{made.protocol.hash}"}
        request = self._request(names, made.split) | {
            "methods": [method],
            "checkpoints": {method: checkpoint} if checkpoint else {},
            "seed": seed,
        }
        cell = SweepCell(
            id=_id([method, names["task"], names["protocol"], backbone, f"s{seed}"], request),
            kind="run",
            request=request,
            expected=expected,
            needs=(training.id,) if training else (),
            resources=self._resources(names),
        )
        if has_towers:
            self.own_towers.add(cell.id)
        return cell

    def _request(self, names: Mapping[str, Any], split: str) -> dict[str, Any]:
        return {
            **self.sweep.settings,
            "task": names["task"],
            "protocol": names["protocol"],
            "split": split,
            "backbone": names["backbone"],
            "data_root": self.data_root,
            "output": str(self.manifest.records),
        }

    def _checkpoint(self, method: str, backbone: str, seed: int) -> tuple[str | None, str | None]:
        """The file of a method's weights and its sha256; None for a method without."""
        wanted = next(
            (
                path.replace("{seed}", str(seed))
                for glob, path in self.sweep.checkpoints.get(method, {}).items()
                if fnmatchcase(backbone, glob)
            ),
            None,
        )
        with self.errors.collect():
            given = {method: Path(wanted)} if wanted else {}
            found = find_weights(method, backbone, given)
            if found is None:
                return None, None
            path = self._fetch(found) if isinstance(found, ReleasedWeights) else found
            own = wanted or path != found
            return (str(path) if own else None), self._sha256(path, f"{method} on {backbone}")
        return None, None

    def _fetch(self, row: ReleasedWeights) -> Path:
        """Released weights, now: where the jobs run there may be no network."""
        if row.file not in self.fetched:
            self.fetched[row.file] = fetch_released(row, Reporter())
        return self.fetched[row.file]

    def _sha256(self, path: Path, user: str) -> str | None:
        if path not in self.hashes:
            self.hashes[path] = None
            try:
                self.hashes[path] = read_checkpoint(path).sha256
            except CirbenchError as error:
                self.errors.add(f"[checkpoints], {user}: {error}")
        return self.hashes[path]

    def _sound_trainings(self) -> Iterator[TrainTable]:
        root = Path(self.data_root) if self.data_root else None
        for training in self.sweep.trainings:
            with self.errors.collect():
                find_backbone(training.backbone)
                source = find_training(training.method).source
                if source == "task":
                    find_supervision(training.source, root)
                    yield training
                else:
                    yield replace(training, source=_locate(training.source, source, root))

    def _training(self, training: TrainTable, seed: int) -> SweepCell:
        file_name = f"{training.method}--{slug(training.backbone)}--s{seed}"
        how = find_training(training.method)
        request = {
            "method": training.method,
            "backbone": training.backbone,
            how.source: training.source,
            "data_root": self.data_root,
            "output": str(self.manifest.folder / "checkpoints" / f"{file_name}.safetensors"),
            "recipe": {**training.recipe, "seed": seed},
            "checkpoint_every": training.checkpoint_every,
            "workers": self.sweep.settings.get("workers", TrainingRequest.workers),
            "device": self.sweep.settings.get("device", "auto"),
            "precision": self.sweep.settings.get("precision", "fp32"),
        }
        names = {"method": "train", "backbone": training.backbone, "seed": seed}
        resources = self._resources(names)
        tasks = resources.get("tasks_per_node", 1) * resources.get("nodes", 1)
        if how.parallel and training.recipe.get("batch_size", tasks) % tasks:
            self.errors.add(
                f"[[train]]: a batch of {training.recipe['batch_size']} is not split evenly over "
                f"{tasks} tasks"
            )
        cell = SweepCell(
            id=_id(["train", training.method, training.backbone, f"s{seed}"], request),
            kind="train",
            request=request,
            resources=resources,
        )
        with self.errors.collect():
            recipe = replace(how().default_recipe(training.source), **training.recipe)
            if how().trains_backbone(training.backbone, recipe):
                self.own_towers.add(cell.id)
        return cell

    def _with_embeddings(
        self, runs: Sequence[SweepCell]
    ) -> tuple[list[SweepCell], list[SweepCell]]:
        """One embedding for the runs that share their pictures and towers, where several do, or
        where several jobs make it."""
        groups: dict[tuple[str, ...], list[SweepCell]] = {}
        shared = ["task", "protocol", *([] if self.sweep.decode_once else ["backbone"])]
        embeddings, dependent = [], []
        for cell in runs:
            if cell.id in self.own_towers:  # what the towers it started from see is of no use
                dependent.append(cell)
            else:
                groups.setdefault(tuple(cell.request[axis] for axis in shared), []).append(cell)
        for members in groups.values():
            shares = self._count_shares(members[0])
            if len(members) == shares == 1:
                dependent += members
                continue
            own = [self._embedding(members, Share(n + 1, shares)) for n in range(shares)]
            embeddings += own
            needs = [cell.id for cell in own]
            dependent += [replace(cell, needs=(*cell.needs, *needs)) for cell in members]
        return embeddings, dependent

    def _count_shares(self, cell: SweepCell) -> int:
        """How many jobs embed a run's pictures: no more than there are batches."""
        pictures = self.pictures[cell.request["task"], cell.request["protocol"]]
        batch_size = self.sweep.settings.get("batch_size", Request.batch_size)
        return count_shares(pictures, self.sweep.embed_tasks, batch_size)

    def _embedding(self, members: Sequence[SweepCell], share: Share) -> SweepCell:
        """What embeds a share of the pictures of runs on one task, by each of their backbones."""
        of = members[0].request
        backbones = list(dict.fromkeys(cell.request["backbone"] for cell in members))
        names = {
            "method": "embed",
            "task": of["task"],
            "backbone": backbones[0],
            "protocol": of["protocol"],
        }
        request = self._request(names, of["split"]) | {"methods": []}
        if backbones[1:]:
            request["more_backbones"] = backbones[1:]
        parts = ["embed", of["task"], of["protocol"], "+".join(backbones)]
        if share.count > 1:
            request["shard"] = str(share)
            parts.append(f"{share.number}-of-{share.count}")
        return SweepCell(
            id=_id(parts, request),
            kind="embed",
            request=request,
            resources=self._resources(names),
        )

    def _resources(self, names: Mapping[str, Any]) -> dict[str, Any]:
        return choose_resources(names, self.profile.resources, self.sweep.resources)


def _locate(source: str, what: str, data_root: Path | None) -> str:
    """The images or texts that are trained on, by a path that holds wherever a job starts.

    Raises:
        MissingData: there are none.
    """
    if "/" in source:
        source = str(Path(source).expanduser().absolute())
    find = find_training_images if what == "images" else find_training_texts
    if not find(source, data_root=data_root)[0]:
        raise MissingData(f"[[train]]: no {what} in {source}")
    return source


def _emptied(made: Plan) -> Any:
    """Hundreds of thousands of annotations need not stay in memory."""
    return replace(made.data, gallery=(), queries=(), spans={})


def _id(names: Sequence[str], request: Mapping[str, Any]) -> str:
    """Readable, and different wherever the requests differ."""
    stays = {k: v for k, v in request.items() if k not in ("batch_size", "workers", "output")}
    digest = hashlib.sha256(json.dumps(stays, sort_keys=True).encode()).hexdigest()[:6]
    return "--".join([*map(_short, names), digest])


def _short(name: str) -> str:
    return slug(name)[:_SLUG_LENGTH]
