"""The interface of a scorer that rates weights during training."""

from typing import Any, Protocol


class Scorer(Protocol):
    """Rates the current weights of the model, averaged where there are averages.

    Samples are scored by `evaluation.looks`.
    """

    @property
    def name(self) -> str:
        """A description of the score for the log."""

    def __call__(self) -> dict[str, float]:
        """Return figures by name, among them `score` (lower is better). Must not draw from the training's
        generators."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs to compute equal scores."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
