"""Tracks the best scored step, and early stopping."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Best:
    """The step with the lowest score; of equal ones the earlier, which has moved less. `patience`: how many scorings in
    a row without a better one end the training; None: no end."""

    patience: int | None = None
    step: int | None = None
    score: float = float("inf")
    since: int = 0

    def observe(self, step: int, score: float) -> bool:
        """Take in one scoring. Returns whether it is the best up to now."""
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
        """The patience stays as it is configured now."""
        self.step, self.score, self.since = state["step"], state["score"], state["since"]
