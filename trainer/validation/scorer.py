"""The interface of a scorer that rates weights during training."""

from typing import Any, Protocol


class Scorer(Protocol):
    """Judges the weights that are on the model now, averages where there are any.

    A judge by samples instead of by loss is one more class with this method, handed to `job.steps.train`.
    """

    @property
    def name(self) -> str:
        """What the score is, in words, for the log."""

    def __call__(self) -> dict[str, float]:
        """Figures by name. `score` is among them: the lower, the better. Draws from no generator of the training."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to score alike."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
