"""Gradient checkpointing: recomputes activations in the backward pass to save memory (Chen et al. 2016, "Training Deep
Nets with Sublinear Memory Cost")."""

from collections.abc import Sequence
from typing import Any, Literal

Wanted = Literal["never", "auto", "always"]


class GradientCheckpointing:
    """Gradient checkpointing of the blocks of `models`. `always` enables it at once, `auto` when `start` is
    called."""

    def __init__(self, models: Sequence[Any], wanted: Wanted) -> None:
        self._models = models
        self._may_start = wanted != "never"
        self.on = False
        if wanted == "always":
            self.start()

    def start(self) -> bool:
        """Enable checkpointing. Returns False when it is already enabled or not allowed."""
        if self.on or not self._may_start:
            return False
        for model in self._models:
            model.enable_gradient_checkpointing()
        self.on = True
        return True

    def remove(self) -> None:
        """Disable checkpointing."""
        if self.on:
            for model in self._models:
                model.disable_gradient_checkpointing()
            self.on = False
