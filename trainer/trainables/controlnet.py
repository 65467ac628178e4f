"""The ControlNet: a trained network for a conditioning image (Zhang et al. 2023)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from artifact.layers import Layer
from families.controls.control import ControlForm, Controllable, control_input, controllable, usual_blocks
from families.family import Conditioning, ModelFamily, PromptFeatures, SizeConditioning
from settings.record import ConfigError
from settings.sections.adapter import AdapterSection
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part, Parts

SEEDS = 2**62

Condition = Callable[[Tensor | None, Tensor, Tensor, PromptFeatures, Sequence[SizeConditioning]], Conditioning | None]
"""The denoiser's residuals for conditioning images uint8 (B, 3 or 4, H, W) or faces (B, N, 4 + P), noised latents,
timesteps, prompts and sizes."""


class ControlNetPart:
    """A separate network that does not change the base model: it is not a layer of the artifact but has its own
    file."""

    def __init__(self, maker: Controllable, form: ControlForm, generator: Generator) -> None:
        """`generator` initialises the weights that are not copied from the base model."""
        self._maker, self._enabled = maker, True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(SEEDS, (), generator=generator)))
            self.module: Any = maker.new_controlnet(form)
        self.module.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return []

    @property
    def statistics(self) -> dict[str, Tensor]:
        """The statistics of its norms, which are not trained: those of the base, or of the initial file."""
        return dict(self.module.named_buffers())

    def load_statistics(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the result of `statistics`."""
        own = self.statistics
        for name, values in saved.items():
            own[name].copy_(values)

    def layers(self) -> dict[str, Layer]:
        return {}

    def rows(self) -> dict[str, Tensor]:
        return {}

    def set_enabled(self, enabled: bool) -> None:
        self._enabled = enabled

    def remove(self) -> None:
        """Does nothing: the base is not changed."""
        self.module.requires_grad_(False)

    def condition(
        self,
        pictures: Tensor | None,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning | None:
        """Implements `Condition`."""
        if pictures is None or not self._enabled:
            return None
        return self._residuals(control_input(pictures), noised, timesteps, prompts, sizes)

    def _residuals(
        self,
        pixels: Tensor,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning:
        return self._maker.control_residuals(self.module, pixels, noised, timesteps, prompts, sizes)


def _place(placement: Placement) -> Part | None:
    if not placement.adapters.is_controlnet:
        return None
    adapters = placement.adapters
    form = ControlForm.of(placement.control, adapters.controlnet_blocks, adapters.controlnet_bottleneck)
    return ControlNetPart(require_controllable(placement.family), form, placement.generators["init_controlnet"])


def require_controllable(family: ModelFamily) -> Controllable:
    """Raises ConfigError for a family without ControlNets."""
    maker = controllable(family)
    if maker is None:
        raise ConfigError(
            f"adapter: controlnet: ControlNets are not supported for base models of the family {family.name}; choose "
            "SD1.5, SD2, SDXL or Stable Cascade"
        )
    return maker


def require_form(adapters: AdapterSection, control: str, maker: Controllable, base_model: str) -> None:
    """Raises ConfigError for blocks that the base does not have, or if the blocks of its ControlNets cannot be chosen.
    `control`: the condition of the ControlNet."""
    if control == "faces" and not maker.steered_blocks:
        raise ConfigError(
            f"control: faces: ControlNets of {base_model} only support images; choose a Stable Cascade base model, or "
            "another control"
        )
    if adapters.controlnet_bottleneck != "effnet" and not maker.steered_blocks:
        raise ConfigError(f"controlnet_bottleneck: it cannot be chosen for ControlNets of {base_model}; leave it out")
    blocks = adapters.controlnet_blocks
    if not blocks:
        return
    if not maker.steered_blocks:
        raise ConfigError(
            f"controlnet_blocks: the blocks of ControlNets of {base_model} cannot be chosen; leave it out"
        )
    if max(blocks) >= maker.steered_blocks:
        raise ConfigError(
            f"controlnet_blocks: {max(blocks)}: {base_model} has {maker.steered_blocks} residual blocks, 0 to "
            f"{maker.steered_blocks - 1}"
        )


def resolved_blocks(blocks: Sequence[int], family: ModelFamily) -> tuple[int, ...]:
    """The blocks of the setting, or the default ones; none if they cannot be chosen."""
    return tuple(blocks) or usual_blocks(require_controllable(family).steered_blocks)


def _updates(part: Part, settings: UpdateSettings) -> Updates:
    return Updates(settings.weights, settings.optimization.max_grad_norm)


CONTROLNET = TrainableKind("controlnet", _place, _updates)


def controlnet_of(parts: Parts) -> ControlNetPart | None:
    """The trained ControlNet; None if an adapter or tokens are trained."""
    if "controlnet" not in parts:
        return None
    part = parts["controlnet"]
    assert isinstance(part, ControlNetPart)
    return part
