"""`bench train lincir`. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import replace

from cirbench.benchmark.api.registry import is_embedded
from cirbench.benchmark.api.training import Training, TrainingRequest
from cirbench.benchmark.runtime.files import check_weights_path
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.lincir.recipe import EMBEDDED, LincirRecipe


class LincirTraining(Training):
    """Train LinCIR's network on captions alone.

    The defaults are those of its released code, whose best state is selected on the val split of
    CIRR, so CIRR must be there, or --select-on none keeps the last. --texts is a file with one
    caption a line, a table with a column `caption`, or a task that teaches a tiny CLIP, such as
    emoji. A log of losses and selection scores is written beside OUTPUT.
    """

    source = "texts"
    recipe = LincirRecipe

    def default_recipe(self, source: str) -> LincirRecipe:
        return replace(EMBEDDED, select_on=source) if is_embedded(source) else LincirRecipe()

    def train(self, request: TrainingRequest, reporter: Reporter, *, resume: bool) -> None:
        from cirbench.methods.lincir.self_masking import make_job, train

        check_weights_path(request.output)
        recipe = replace(self.default_recipe(request.source), **request.recipe)
        train(make_job(recipe, request, reporter), reporter, resume=resume)
