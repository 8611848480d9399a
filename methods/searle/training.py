"""`bench train searle`. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import replace

from cirbench.benchmark.api.registry import is_embedded
from cirbench.benchmark.api.training import Training, TrainingRequest
from cirbench.benchmark.runtime.files import check_weights_path
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.searle.recipe import EMBEDDED, SearleRecipe


class SearleTraining(Training):
    """Train SEARLE's network on images: inversion, then distillation.

    The defaults are those of its released code. --images is a folder, a table, webdataset shards,
    or a task that has such images, such as emoji. --phrases holds what a language model says of
    concepts; without it each concept (--concepts, or the images' titles) is said in templates, and
    the weights' header says so. A log of the network's losses is written beside OUTPUT.
    """

    source = "images"
    recipe = SearleRecipe

    def default_recipe(self, source: str) -> SearleRecipe:
        return EMBEDDED if is_embedded(source) else SearleRecipe()

    def train(self, request: TrainingRequest, reporter: Reporter, *, resume: bool) -> None:
        from cirbench.methods.searle.distillation import make_job, train

        check_weights_path(request.output)
        recipe = replace(self.default_recipe(request.source), **request.recipe)
        train(make_job(recipe, request, reporter), reporter, resume=resume)
