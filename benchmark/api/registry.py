"""Methods, tasks and backbones by name, each loaded only when it is asked for.

A plug-in package adds its own through the entry-point groups `cirbench.methods`,
`cirbench.trainings`, `cirbench.tasks` and `cirbench.backbones`.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.hints import suggest


class PluginWarning(UserWarning):
    """Something of a plug-in is left out."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name's target ("module:attribute"), where the name comes from, and a line about it.

    Attributes:
        needs_checkpoint, zero_shot: of a built-in method, what its class says, known without
            importing it.
        trunk: of a built-in backbone, whether a method can train it along.
        embedded: of a built-in task, whether its data come with cirbench.
        clash: who else claims the name, if anybody does; then it can't be had.
    """

    target: str
    origin: str = "cirbench"
    summary: str = ""
    needs_checkpoint: bool = False
    zero_shot: bool = True
    trunk: bool = False
    embedded: bool = False
    clash: str = ""

    def load(self) -> Any:
        """Imports the module and gives the attribute.

        Raises:
            UsageError: two plug-ins claim the name, or a plug-in's module can't be imported or
                lacks the attribute.
        """
        if self.clash:
            raise UsageError(self.clash)
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ) as error:  # a stranger's module may raise anything, or leave by sys.exit
            if self.origin == "cirbench":
                raise
            raise UsageError(
                f"{self.target} of {self.origin} cannot be loaded ({type(error).__name__}: "
                f"{error}); mend or uninstall {self.origin}"
            ) from error


def _built_in(
    target: str,
    summary: str,
    *,
    needs_checkpoint: bool = False,
    zero_shot: bool = True,
    trunk: bool = False,
    embedded: bool = False,
) -> Entry:
    return Entry(
        target=target,
        summary=summary,
        needs_checkpoint=needs_checkpoint,
        zero_shot=zero_shot,
        trunk=trunk,
        embedded=embedded,
    )


_METHODS = {
    "image-only": _built_in(
        "cirbench.methods.baselines:ImageOnly", "the reference picture's embedding alone"
    ),
    "text-only": _built_in("cirbench.methods.baselines:TextOnly", "the text's embedding alone"),
    "image-text": _built_in(
        "cirbench.methods.baselines:ImageText", "the sum of the two embeddings"
    ),
    "pic2word": _built_in(
        "cirbench.methods.pic2word.method:Pic2Word",
        "the picture as one pseudo-word in a prompt (Saito et al., CVPR 2023)",
        needs_checkpoint=True,
    ),
    "combiner": _built_in(
        "cirbench.methods.combiner.method:Combiner",
        "a network over both embeddings, trained on triplets (Baldrati et al., 2022)",
        needs_checkpoint=True,
        zero_shot=False,
    ),
    "tirg": _built_in(
        "cirbench.methods.tirg.method:Tirg",
        "a gated reference and a residual, trained on triplets (Vo et al., CVPR 2019)",
        needs_checkpoint=True,
        zero_shot=False,
    ),
    "maaf": _built_in(
        "cirbench.methods.maaf.method:Maaf",
        "a transformer over places and words, trained on triplets (Dodds et al., 2020)",
        needs_checkpoint=True,
        zero_shot=False,
    ),
    "artemis": _built_in(
        "cirbench.methods.artemis.method:Artemis",
        "two scores that the text weighs, trained on triplets (Delmas et al., ICLR 2022)",
        needs_checkpoint=True,
        zero_shot=False,
    ),
    "cirplant": _built_in(
        "cirbench.methods.cirplant.method:Cirplant",
        "BERT over text and reference, trained on triplets (Liu et al., ICCV 2021)",
        needs_checkpoint=True,
        zero_shot=False,
    ),
    "searle": _built_in(
        "cirbench.methods.searle.method:Searle",
        'a pseudo-word and "that {caption}" (Baldrati et al., ICCV 2023); needs a checkpoint',
        needs_checkpoint=True,
    ),
    "lincir": _built_in(
        "cirbench.methods.lincir.method:LinCIR",
        "SEARLE's network trained on text alone (Gu et al., CVPR 2024); needs a checkpoint",
        needs_checkpoint=True,
    ),
    "context-i2w": _built_in(
        "cirbench.methods.context_i2w.method:ContextI2W",
        "a pseudo-word that the text chooses (Tang et al., AAAI 2024); needs a checkpoint",
        needs_checkpoint=True,
    ),
}

_TRAININGS = {
    "pic2word": _built_in(
        "cirbench.methods.pic2word.training:Pic2WordTraining", "on unlabelled pictures"
    ),
    "combiner": _built_in(
        "cirbench.methods.combiner.training:CombinerTraining", "on the triplets of a task"
    ),
    "lincir": _built_in(
        "cirbench.methods.lincir.training:LincirTraining", "on captions, without pictures"
    ),
    "searle": _built_in(
        "cirbench.methods.searle.training:SearleTraining", "on unlabelled pictures, in two stages"
    ),
    **{
        name: _built_in(
            f"cirbench.methods.{name}.training:{name.title()}Training", "on the triplets of a task"
        )
        for name in ("tirg", "maaf", "artemis", "cirplant")
    },
}

EMBEDDED = "embedded"
"""What a person writes for all embedded tasks."""
_TASKS = {
    "emoji": _built_in(
        "cirbench.datasets.emoji.task:Emoji",
        "embedded: an emoji redrawn in another style, 600 emoji × 4 styles",
        embedded=True,
    ),
    "wardrobe": _built_in(
        "cirbench.datasets.wardrobe.task:Wardrobe",
        "embedded: a person in clothes and how another differs, 720 queries in three styles",
        embedded=True,
    ),
    "kin": _built_in(
        "cirbench.datasets.kin.task:Kin",
        "embedded: a person and how the one looked for differs, 800 queries, 768 drawings",
        embedded=True,
    ),
    "scenes": _built_in(
        "cirbench.datasets.scenes.task:Scenes",
        "embedded: an emoji and the names of those beside it, 600 queries, 1,789 scenes",
        embedded=True,
    ),
    "cirr": _built_in(
        "cirbench.datasets.cirr:CIRR",
        "a photo and how the one looked for differs, 4,181 queries, 2,297 images",
    ),
    "circo": _built_in(
        "cirbench.datasets.circo:Circo",
        "a photo and how others differ, several answers, 220 or 800 queries, 123,403 images",
    ),
    "coco": _built_in(
        "cirbench.datasets.coco.task:Coco",
        "object composition, an object cut out of a photo and what is around it, 4,766 queries",
    ),
    "fashion-iq": _built_in(
        "cirbench.datasets.fashion_iq:FashionIQ",
        "a garment and how it differs, 6,016 queries in three categories",
    ),
    "garments": _built_in(
        "cirbench.datasets.garments.task:Garments",
        "a photographed garment in another colour or of another kind, 1,000 queries, 900 images",
    ),
    "genecis": _built_in(
        "cirbench.datasets.genecis:GeneCIS",
        "a word says what of a photo is kept or changed, 8,032 queries, a gallery for each",
    ),
    "imagenet-r": _built_in(
        "cirbench.datasets.imagenet_r:ImageNetR",
        "domain conversion, 10,000 photos × 4 domains against 16,983 images",
    ),
}

OWN_TASK = _built_in(
    "cirbench.datasets.own.task:read_task", "a task from files of your own, FILE.toml or FOLDER"
)

_BACKBONES = {
    "emoji-clip": _built_in(
        "cirbench.benchmark.backbones.open_clip:load_tiny_clip",
        "embedded: a tiny CLIP trained on emoji drawings",
    ),
    "wardrobe-clip": _built_in(
        "cirbench.benchmark.backbones.open_clip:load_tiny_clip",
        "embedded: a tiny CLIP trained on people in clothes",
    ),
    "kin-clip": _built_in(
        "cirbench.benchmark.backbones.open_clip:load_tiny_clip",
        "embedded: a tiny CLIP trained on drawings of people",
    ),
    "scenes-clip": _built_in(
        "cirbench.benchmark.backbones.open_clip:load_tiny_clip",
        "embedded: a tiny CLIP trained on scenes of emoji",
    ),
    "fake": _built_in(
        "cirbench.benchmark.backbones.fake:load", "deterministic random projections, for tests"
    ),
    "features:": _built_in(
        "cirbench.benchmark.backbones.features:load",
        "frozen features, an .npy vector in place of each picture, no texts: features:2048",
    ),
    "hf:": _built_in(
        "cirbench.benchmark.backbones.transformers_clip:load",
        "a transformers CLIP, hf:openai/clip-vit-large-patch14 or hf:/FOLDER",
    ),
    "hf-hub:": _built_in(
        "cirbench.benchmark.backbones.open_clip:load",
        "an open_clip model of the hub, hf-hub:ORG/NAME",
    ),
    "local-dir:": _built_in(
        "cirbench.benchmark.backbones.open_clip:load",
        "an open_clip model in a folder, local-dir:PATH",
    ),
    "torchvision:": _built_in(
        "cirbench.benchmark.backbones.trunks:load",
        "a ResNet trained on ImageNet, without a text tower: torchvision:resnet18, 50 or 152",
        trunk=True,
    ),
    "tiny": _built_in(
        "cirbench.benchmark.backbones.trunks:load_tiny",
        "a small ResNet for pictures of 48 pixels, not trained: bench train artemis -b tiny",
        trunk=True,
    ),
    "trained:": _built_in(
        "cirbench.methods.supervised.trained:load",
        "the towers of an end-to-end trained artemis, tirg or maaf: trained:FILE",
    ),
    "tuned:": _built_in(
        "cirbench.benchmark.backbones.tuned:load",
        "a fine-tuned CLIP: tuned:FOLDER of bench train clip-sum, tuned:NAME@FILE of CLIP4Cir",
    ),
}

OPEN_CLIP = _built_in(
    "cirbench.benchmark.backbones.open_clip:load", "open_clip's own names, ARCHITECTURE/TAG"
)


_BUILT_IN = {
    "methods": _METHODS,
    "trainings": _TRAININGS,
    "tasks": _TASKS,
    "backbones": _BACKBONES,
}


@cache
def _entries(kind: str) -> Mapping[str, Entry]:
    """All entries of a kind, built-in ones first.

    Of a plug-in that claims a built-in name the built-in stays; of two plug-ins that claim one name
    neither can be had. Either is warned of, once.
    """
    entries = {**_BUILT_IN[kind]}
    for point in entry_points(group=f"cirbench.{kind}"):
        origin = point.dist.name if point.dist else "an unnamed distribution"
        mine, first = Entry(target=point.value, origin=origin), entries.get(point.name)
        if first is None:
            entries[point.name] = mine
            continue
        said = (
            f"two packages offer {kind[:-1]} {point.name!r}: {first.origin} ({first.target}) and "
            f"{origin} ({point.value}); uninstall one"
        )
        warnings.warn(said, PluginWarning, stacklevel=2)
        if first.origin != "cirbench":
            entries[point.name] = replace(first, clash=said)
    return entries


def methods() -> Mapping[str, Entry]:
    """Every known method."""
    return _entries("methods")


def trainings() -> Mapping[str, Entry]:
    """Every known training, by the name of the method whose weights it makes."""
    return _entries("trainings")


def tasks() -> Mapping[str, Entry]:
    """Every known task."""
    return _entries("tasks")


def is_embedded(name: str) -> bool:
    """Whether a task of that name is known whose data come with cirbench."""
    return name in tasks() and tasks()[name].embedded


def expand_task(name: str) -> list[str]:
    """The tasks that a name stands for: itself, or for `EMBEDDED` each whose data are here."""
    return list(filter(is_embedded, tasks())) if name == EMBEDDED else [name]


def backbones() -> Mapping[str, Entry]:
    """Every known backbone; a name that ends in a colon is a prefix."""
    return _entries("backbones")


def find_method(name: str) -> Any:
    """The method class of that name; raises UsageError with suggestions."""
    return _load_class(_find(name, "method", methods()), ("name", "build", "compose"))


def needs_checkpoint(method: str) -> bool:
    """Whether the method of that name takes weights; raises UsageError with suggestions."""
    return _read_fact(method, "needs_checkpoint")


def is_zero_shot(method: str) -> bool:
    """Whether its training saw no composed-retrieval triplets; raises UsageError as above."""
    return _read_fact(method, "zero_shot")


def _read_fact(method: str, name: str) -> bool:
    entry = _find(method, "method", methods())
    told: bool = getattr(entry if entry.origin == "cirbench" else find_method(method), name)
    return told


def find_training(method: str) -> Any:
    """The training class of that method; raises UsageError with suggestions."""
    return _load_class(_find(method, "training", trainings()), ("source", "recipe", "train"))


def find_task(name: str) -> Any:
    """The task class of that name, or of the files of one's own at that path.

    Raises:
        UsageError: there is none, with suggestions; or what describes it cannot be.
        MissingData: of one's own, files are not there.
    """
    if name not in tasks() and (path := _locate_own(name)):
        return OWN_TASK.load()(path)
    return _load_class(_find(name, "task", tasks()), ("name", "load", "protocols"))


def is_task(name: str) -> bool:
    """Whether a name stands for a task and for nothing else: a folder may be one of pictures."""
    own = None if name in tasks() else _locate_own(name)
    return name in tasks() or bool(own and (not own.is_dir() or (own / "task.toml").is_file()))


def _locate_own(name: str) -> Path | None:
    """What describes a task of one's own: FILE.toml, a folder, or for NAME a NAME.toml here."""
    path = Path(name)
    if path.suffix == ".toml" or (name and path.is_dir()):
        return path
    beside = Path(f"{name}.toml")
    return beside if name and beside.is_file() else None


def loadable_methods() -> list[str]:
    """The names of all methods but the plug-ins' that can't be loaded, which are warned of."""
    found = []
    for name, entry in methods().items():
        try:
            if entry.origin != "cirbench":
                find_method(name)
        except UsageError as error:
            warnings.warn(f"method {name!r} is left out: {error}", PluginWarning, stacklevel=2)
        else:
            found.append(name)
    return found


def _load_class(entry: Entry, members: Sequence[str]) -> Any:
    found = entry.load()
    lacking = [member for member in members if not hasattr(found, member)]
    if not isinstance(found, type) or lacking:
        raise UsageError(
            f"{entry.target} of {entry.origin} must be a class with {', '.join(members)}, got "
            f"{found!r}"
        )
    return found


def find_backbone(name: str) -> Any:
    """The loader for a backbone's full name; raises UsageError with suggestions."""
    return backbone_entry(name).load()


def split_name(backbone: str) -> tuple[str | None, str]:
    """`NAME=BACKBONE` → the name of one's own, None where there is none, and the backbone."""
    match = re.fullmatch(r"([\w.+-]+)=(.+)", backbone)
    return (match[1], match[2]) if match else (None, backbone)


def backbone_entry(name: str) -> Entry:
    """What would load it, which is not imported yet; raises UsageError with suggestions."""
    known = backbones()
    own_name, name = split_name(name)
    if own_name in known:
        raise UsageError(f"{own_name} is a backbone of its own; write another NAME={name}")
    prefix = name[: name.find(":") + 1]
    if prefix in known and name != prefix:
        return known[prefix]
    if "/" in name and not prefix:
        return OPEN_CLIP
    return _find(name, "backbone", known)


def _find(name: str, kind: str, entries: Mapping[str, Entry]) -> Entry:
    if name in entries and not name.endswith(":"):
        return entries[name]
    hint = suggest(name, entries)
    raise UsageError(f"unknown {kind} {name!r}; {hint} (bench ls {kind}s lists all)")
