"""ControlNets of Stage C: a network encodes the condition, and a projection for each chosen block is added to its
input.

Tensors have the names of the original code, as in `controlnet/canny.safetensors`: `backbone.…`, `projections.<i>.…`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from families.cascade.bottlenecks import LEAK, large_network, simple_network
from families.cascade.decoding import PIXELS_SCALE
from families.cascade.efficient_net import STEM_STRIDE, EfficientNetEncoder, Stage, efficient_net
from families.controls.control import COLOURS, ControlForm, usual_blocks
from families.controls.faces import painted, reads_faces

REDUCTION = 2
"""Factor by which the encoder's input is reduced for the mode large, and by which its latents are enlarged again."""
COMFYUI_BLOCKS, COMFYUI_WIDTH = 64, 2048
"""Of the Stage C that ComfyUI expects: the number of residual blocks, and the channels of the first ones."""
ERASED = 1.0
"""Value of erased pixels beside a mask: white, as in the original."""


class CascadeControlNet(ModelMixin, ConfigMixin):
    """`stages`, `stem`, `features`: of the EfficientNet. `channels`: of what the network reads. `blocks`: numbers of
    Stage C's residual blocks in the order in which they run. `widths`: channels of each one's input. `bottleneck`: the
    network (`ControlForm`)."""

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
        bottleneck: str = "effnet",
    ) -> None:
        super().__init__()
        if bottleneck == "large":
            self.backbone = large_network(channels, features)
        elif bottleneck == "simple":
            self.backbone, features = simple_network(channels), channels
        else:
            self.backbone = _efficient_net(stages, stem, features, channels)
        self.projections = nn.ModuleList(_projection(features, width) for width in widths)
        self.gradient_checkpointing = False
        self.train()

    @classmethod
    def beside(cls, encoder: EfficientNetEncoder, form: ControlForm, widths: Sequence[int]) -> "CascadeControlNet":
        """A new ControlNet in fp32 on the CPU. Its EfficientNet is a copy of the image encoder; the original code
        starts from ImageNet weights. If the input does not have three channels, its first layer has the first columns
        of the encoder's, and zeros. The other networks are initialised with torch's global generator, as in the
        original code."""
        config, bottleneck = encoder.config, form.bottleneck
        channels = config.latent_channels if bottleneck == "large" else form.channels
        made = cls(config.stages, config.stem, config.features, channels, form.blocks, widths, bottleneck)
        if bottleneck != "effnet":
            return made
        tensors = {name: each.float().cpu() for name, each in encoder.backbone.state_dict().items()}
        more = max(0, form.channels - COLOURS)
        tensors["0.0.weight"] = functional.pad(tensors["0.0.weight"], (0, 0, 0, 0, 0, more))[:, : form.channels]
        made.backbone.load_state_dict(tensors)
        return made

    @property
    def opens_in_comfyui(self) -> bool:
        """Whether ComfyUI opens its file: it expects the default blocks and the width of the published Stage C, and has
        two of the networks (`comfy/ldm/cascade/controlnet.py`)."""
        config = self.config
        usual = tuple(config.blocks) == usual_blocks(COMFYUI_BLOCKS) and set(config.widths) == {COMFYUI_WIDTH}
        return usual and config.bottleneck in ("effnet", "large")

    def train(self, mode: bool = True) -> "CascadeControlNet":
        """The norms of an EfficientNet always use their running statistics, as in the original."""
        super().train(mode)
        self.backbone.eval()
        return self

    def condition(self, pictures: Tensor, encoder: EfficientNetEncoder, size: tuple[int, int]) -> Tensor:
        """The input of `forward`, from images (B, 3, H, W) or faces as returned by `control_input`. `size`: (h, w) of
        Stage C's latents.

        The mode large reads the encoder's latents of the image at half size, enlarged to the latents of the whole
        image.
        """
        if reads_faces(self):
            return painted(pictures, size)
        if self.config.bottleneck != "large":
            return pictures
        encoder.to(pictures.device)  # it is moved off the device after the latents are cached
        smaller = functional.interpolate(_smaller(pictures.clamp(min=0)), scale_factor=1 / REDUCTION, mode="nearest")
        with torch.no_grad():
            return functional.interpolate(encoder(smaller).float(), scale_factor=float(REDUCTION), mode="nearest")

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """A residual for each block, (B, width, h, w), with h and w about as large as Stage C's latents.

        `condition`: with an EfficientNet, images (B, 3, H, W) of the output size, in [0, 1] and -1 where erased; else
        (B, channels, h, w).
        """
        features = self.features(condition)
        return tuple(projection(features) for projection in self.projections)

    def features(self, condition: Tensor) -> Tensor:
        """The input of all projections: (B, features, h, w)."""
        found = (self._read(condition) if self.config.bottleneck == "effnet" else condition).to(self.dtype)
        for layer in self.backbone:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                found = self._gradient_checkpointing_func(layer, found)
            else:
                found = layer(found)
        return found

    def _read(self, pictures: Tensor) -> Tensor:
        """The input channels of the EfficientNet, at three quarters of the sides, as in the base model's encoder."""
        channels = self.config.channels
        if channels == 1:
            return _smaller(pictures.clamp(min=0).mean(1, keepdim=True))
        if channels == COLOURS:
            return _smaller(pictures)
        erased = (pictures < 0).any(1, keepdim=True)
        colours, holes = _smaller(torch.where(erased, ERASED, pictures)), _smaller(erased.float()) > 0.5
        return torch.cat([torch.where(holes, ERASED, colours), holes.to(colours.dtype)], dim=1)


def _efficient_net(stages: Sequence[Stage], stem: int, features: int, channels: int) -> nn.Sequential:
    """If the input does not have three channels, the first layer has no padding, as in the original code and
    ComfyUI."""
    made = efficient_net(stages, stem, features)
    if channels != COLOURS:
        first: Any = made[0]
        first[0] = nn.Conv2d(channels, stem, kernel_size=3, stride=STEM_STRIDE, bias=False)
    return made


def _smaller(pictures: Tensor) -> Tensor:
    size = [max(1, round(side / PIXELS_SCALE)) for side in pictures.shape[-2:]]
    return functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)


def _projection(features: int, width: int) -> nn.Sequential:
    """Two 1 × 1 convolutions; the last one starts as zeros, so that the ControlNet adds nothing at first."""
    last = nn.Conv2d(features, width, kernel_size=1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Conv2d(features, features, kernel_size=1, bias=False), nn.LeakyReLU(LEAK), last)
