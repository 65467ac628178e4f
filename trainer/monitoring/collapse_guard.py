"""Detects an adapter that changes too fast early in the run, which degrades samples after a hundred steps.

Adam's first updates have the size of the learning rate for any gradient, so ‖ΔW‖ grows before it has a direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from settings.sections.collapse import CollapseGuardName
from trainer.trainables.trainable import Trainable

EARLY = 0.2
"""Share of the run in which a large change indicates too high a learning rate. Later it is a result of learning."""
LOWERED = 0.5


@dataclass
class CollapseGuard:
    """Checks the adapter's change after steps.

    `mode`: "warn" warns once; "lower" also halves the adapter's learning rate for the rest of the run, each time.
    `limit`: largest allowed ‖ΔW‖/‖W‖.
    """

    mode: CollapseGuardName
    limit: float
    adapter: Trainable
    total_steps: int
    warned: bool = False

    def check(self, step: int, weight_change: Mapping[str, float]) -> str | None:
        """Return a warning for the user, None without one. `weight_change`: ‖ΔW‖/‖W‖ by block group."""
        if self.mode == "off" or not weight_change or step > EARLY * self.total_steps:
            return None
        limit = self.limit / self.adapter.rate_factor  # a lowered rate may reach the same change later
        block, change = max(weight_change.items(), key=lambda item: item[1])
        if change <= limit or (self.mode == "warn" and self.warned):
            return None
        self.warned = True
        said = f"at step {step} the adapter has changed {block} by {change:.1%} of its weights, more than {limit:.0%}"
        if self.mode == "warn":
            return f"{said}: it may collapse. Lower learning_rate, or set collapse_guard: lower"
        self.adapter.scale_rate(LOWERED)
        return f"{said}: its learning rate is halved from now on"
