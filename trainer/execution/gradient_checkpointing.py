"""Less memory for more time: activations are computed again in the backward pass instead of being kept (Chen et al.
2016, "Training Deep Nets with Sublinear Memory Cost")."""

from typing import Any, Literal

Wanted = Literal["never", "auto", "always"]


class GradientCheckpointing:
    """Of the blocks of `denoiser`. On from the start with `always`; `auto` waits for `start`."""

    def __init__(self, denoiser: Any, wanted: Wanted) -> None:
        self._denoiser = denoiser
        self._may_start = wanted != "never"
        self.on = False
        if wanted == "always":
            self.start()

    def start(self) -> bool:
        """Switch it on. Returns whether that changed anything: False when it is on already, or not wanted."""
        if self.on or not self._may_start:
            return False
        self._denoiser.enable_gradient_checkpointing()
        self.on = True
        return True

    def remove(self) -> None:
        """Leave the denoiser as it was."""
        if self.on:
            self._denoiser.disable_gradient_checkpointing()
            self.on = False
