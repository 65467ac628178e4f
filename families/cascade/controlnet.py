"""ControlNets of Stage C: an EfficientNet reads the picture, and a projection for each chosen block adds to its input.

Tensors have the names of the original code, as in `controlnet/canny.safetensors`: `backbone.…`, `projections.<i>.…`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from families.cascade.decoding import PIXELS_SCALE
from families.cascade.efficient_net import STEM_STRIDE, EfficientNetEncoder, Stage, efficient_net
from families.parts.control import COLOURS, ControlForm

LEAK = 0.2
ERASED = 1.0
"""Value of erased pixels beside a mask: white, as in the original."""


class CascadeControlNet(ModelMixin, ConfigMixin):
    """`stages`, `stem`, `features`: of the EfficientNet. `channels`: of what it reads (`ControlForm`). `blocks`:
    numbers of Stage C's residual blocks in the order in which they run. `widths`: channels of each one's input."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        stages: Sequence[Stage],
        stem: int,
        features: int,
        channels: int,
        blocks: Sequence[int],
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.backbone = efficient_net(stages, stem, features)
        if channels != COLOURS:  # without padding, as the original and ComfyUI have it
            first: Any = self.backbone[0]
            first[0] = nn.Conv2d(channels, stem, kernel_size=3, stride=STEM_STRIDE, bias=False)
        self.projections = nn.ModuleList(_projection(features, width) for width in widths)
        self.gradient_checkpointing = False
        self.train()

    @classmethod
    def beside(cls, encoder: EfficientNetEncoder, form: ControlForm, widths: Sequence[int]) -> "CascadeControlNet":
        """A new one in fp32 on the CPU, whose EfficientNet is a copy of the encoder's; the original starts from one for
        ImageNet. Without three channels its first layer has the first columns of the encoder's, and zeros.
        """
        config = encoder.config
        made = cls(config.stages, config.stem, config.features, form.channels, form.blocks, widths)
        tensors = {name: each.float().cpu() for name, each in encoder.backbone.state_dict().items()}
        more = max(0, form.channels - COLOURS)
        tensors["0.0.weight"] = functional.pad(tensors["0.0.weight"], (0, 0, 0, 0, 0, more))[:, : form.channels]
        made.backbone.load_state_dict(tensors)
        return made

    def train(self, mode: bool = True) -> "CascadeControlNet":
        """The norms always use the statistics that they have, as in the original."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures (B, 3, H, W) of the finished size, in [0, 1] and -1 where erased → a residual for each block,
        (B, width, h, w) with h and w about as large as Stage C's latents."""
        features = self.features(pictures)
        return tuple(projection(features) for projection in self.projections)

    def features(self, pictures: Tensor) -> Tensor:
        """What all projections read: (B, features, h, w)."""
        found = self._read(pictures).to(self.dtype)
        for layer in self.backbone:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                found = self._gradient_checkpointing_func(layer, found)
            else:
                found = layer(found)
        return found

    def _read(self, pictures: Tensor) -> Tensor:
        """The channels that the EfficientNet reads, at three quarters of the sides, as its encoder reads pictures."""
        channels = self.config.channels
        if channels == 1:
            return _smaller(pictures.clamp(min=0).mean(1, keepdim=True))
        if channels == COLOURS:
            return _smaller(pictures)
        erased = (pictures < 0).any(1, keepdim=True)
        colours, holes = _smaller(torch.where(erased, ERASED, pictures)), _smaller(erased.float()) > 0.5
        return torch.cat([torch.where(holes, ERASED, colours), holes.to(colours.dtype)], dim=1)


def _smaller(pictures: Tensor) -> Tensor:
    size = [max(1, round(side / PIXELS_SCALE)) for side in pictures.shape[-2:]]
    return functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)


def _projection(features: int, width: int) -> nn.Sequential:
    """Two 1 × 1 convolutions; the last one starts as zeros, so that the ControlNet adds nothing at first."""
    last = nn.Conv2d(features, width, kernel_size=1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Conv2d(features, features, kernel_size=1, bias=False), nn.LeakyReLU(LEAK), last)
