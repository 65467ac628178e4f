"""Tracks the best scored steps, and early stopping."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Best:
    """The step with the lowest score; the earlier one of equal scores, since it has changed less.

    `keep`: number of steps with the lowest scores whose checkpoints are kept; `top`: these steps and their scores, the
    lowest first. `patience`: number of consecutive scores without improvement that end the training; None: no early
    stopping.
    """

    patience: int | None = None
    step: int | None = None
    score: float = float("inf")
    since: int = 0
    keep: int = 1
    top: list[tuple[int, float]] = field(default_factory=list)

    def observe(self, step: int, score: float) -> bool:
        """Record a score. Returns whether it is the best so far."""
        better = score < self.score
        if better:
            self.step, self.score, self.since = step, score, 0
        else:
            self.since += 1
        if score < math.inf:  # also False for NaN
            self.top = sorted([*self.top, (step, score)], key=lambda each: each[1])[: self.keep]
        return better

    @property
    def kept(self) -> set[int]:
        """The steps with the lowest scores."""
        return {step for step, _ in self.top}

    @property
    def waited_enough(self) -> bool:
        """Whether to stop early."""
        return self.patience is not None and self.since >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore everything but `patience` and `keep`, which follow the current configuration."""
        self.step, self.score, self.since = state["step"], state["score"], state["since"]
        found = [] if self.step is None else [(self.step, self.score)]  # for checkpoints without `top`
        self.top = [(step, score) for step, score in state.get("top", found)][: self.keep]
