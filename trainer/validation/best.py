"""Tracks the best scored step, and early stopping."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Best:
    """The step with the lowest score; the earlier one of equal scores, since it has changed less.

    `patience`: number of consecutive scores without improvement that end the training; None: no early stopping.
    """

    patience: int | None = None
    step: int | None = None
    score: float = float("inf")
    since: int = 0

    def observe(self, step: int, score: float) -> bool:
        """Record a score. Returns whether it is the best up to now."""
        better = score < self.score
        if better:
            self.step, self.score, self.since = step, score, 0
        else:
            self.since += 1
        return better

    @property
    def waited_enough(self) -> bool:
        """Whether to stop early."""
        return self.patience is not None and self.since >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore everything but the patience, which follows the current configuration."""
        self.step, self.score, self.since = state["step"], state["score"], state["since"]
