"""What the registry knows of a supervised system's training; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from cirbench.benchmark.api.registry import backbone_entry, is_embedded
from cirbench.benchmark.api.training import Training, TrainingRequest
from cirbench.benchmark.runtime.files import check_weights_path
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.supervised.recipe import SupervisedRecipe


class SupervisedTraining(Training):
    """On the triplets of a task, over frozen features or with a trunk trained along."""

    source = "task"
    recipe: ClassVar[type[SupervisedRecipe]]
    method: ClassVar[str]
    """The name under which it is registered."""
    on_embedded: ClassVar[Mapping[str, Any]] = {}
    """What of the recipe differs on an embedded task."""
    selection: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Task → the protocol and the metrics by which the best epoch is chosen; else the task's."""

    def default_recipe(self, source: str) -> SupervisedRecipe:
        recipe: Any = self.recipe
        return recipe(**(self.on_embedded if is_embedded(source) else {}))  # type: ignore[no-any-return]

    def trains_backbone(self, backbone: str, recipe: SupervisedRecipe) -> bool:
        return recipe.trains_trunk and backbone_entry(backbone).trunk

    def train(self, request: TrainingRequest, reporter: Reporter, *, resume: bool) -> None:
        from cirbench.methods.supervised.training import make_job, train

        check_weights_path(request.output)
        recipe = replace(self.default_recipe(request.source), **request.recipe)
        job = make_job(self.method, recipe, request, self.selection.get(request.source))
        train(job, reporter, resume=resume)
