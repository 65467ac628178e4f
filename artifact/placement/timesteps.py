"""Restricts components of a LoRA to their timesteps, in training and sampling."""

from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

TIMESTEP_NAMES = ("timestep", "timestep_ratio", "t")


class TimestepClock:
    """Reads the noise level τ of the denoiser's current pass, in a hook, from the denoiser's arguments.

    `tau`: (B,) or (1,), in 0 to 1, fp32. It is written in place, one tensor for each batch size: a recorded pass (CUDA
    graph) reads the current value.
    """

    def __init__(self, denoiser: nn.Module, ends: tuple[float, float]) -> None:
        """`ends`: the denoiser's timestep argument for clean latents and for pure noise."""
        self._ends = ends
        self._values: dict[tuple[int, torch.device], Tensor] = {}
        self.tau = torch.zeros(1)
        self._handle = denoiser.register_forward_pre_hook(self._read, with_kwargs=True)

    def remove(self) -> None:
        """Remove the hook from the denoiser."""
        self._handle.remove()

    def _read(self, denoiser: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = next((options[name] for name in TIMESTEP_NAMES if name in options), None)
        timestep = torch.as_tensor(arguments[1] if given is None else given).detach().float().reshape(-1)
        clean, noise = self._ends
        device = next(denoiser.parameters()).device
        value = self._values.setdefault((len(timestep), device), torch.zeros(len(timestep), device=device))
        value.copy_((timestep - clean) / (noise - clean))
        self.tau = value


class ActingComponents:
    """Sets the hidden values of a LoRA to zero for components that are not used at the current timestep."""

    def __init__(self, clock: TimestepClock, times: Tensor) -> None:
        """`times`: (r, 2), as `artifact.layers.TimedLoraLayer` has them."""
        self._clock, self.times = clock, times

    def __call__(self, hidden: Tensor, axis: int = -1) -> Tensor:
        """`hidden`: (B, …), its components along `axis`. The same shape."""
        self.times = self.times.to(hidden.device)
        start, end = self.times.unbind(1)
        tau = self._clock.tau.to(hidden.device).unsqueeze(1)
        acting = ((tau >= start) & (tau < end)).to(hidden.dtype)
        shape = [1] * hidden.ndim
        shape[0], shape[axis] = acting.shape
        return hidden * acting.reshape(shape)


class TimedLora(LoraVariant):
    """y + s · B · (acting · A · x): the timed LoRA of a file on any layer, and in training that of a convolution, where
    a component is a channel of the hidden values."""

    def __init__(self, acting: ActingComponents) -> None:
        self.acting = acting

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **options: Any) -> Tensor:
        """`x`: (B, …, in) or (B, in, h, w). `result`: the base layer's y."""
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        hidden = down(module.lora_dropout[active_adapter](x))
        hidden = self.acting(hidden, 1 if isinstance(down, nn.Conv2d) else -1)
        changed: Tensor = result + up(hidden) * module.scaling[active_adapter]
        return changed
