"""For a tracker of your own: `bench train … --track my_package:MyHook`.

from cirbench.hooks import TrainingHook

class MyHook(TrainingHook):
    def log(self, step, numbers): ...
"""

from __future__ import annotations

from cirbench.benchmark.trackers.hook import TrainingHook

__all__ = ["TrainingHook"]
