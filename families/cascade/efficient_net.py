"""The image encoder of Stable Cascade: EfficientNetV2-S (Tan & Le 2021, table 4) and a 1 × 1 convolution.

The tensors have the names of torchvision's `efficientnet_v2_s().features`, as in `effnet_encoder.safetensors`.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

Stage = tuple[str, int, int, int, int]
"""Kind of its blocks ("fused" or "mb"), expansion, stride of the first block, channels, number of blocks."""
EFFICIENTNET_V2_S: tuple[Stage, ...] = (
    ("fused", 1, 1, 24, 2),
    ("fused", 4, 2, 48, 4),
    ("fused", 4, 2, 64, 4),
    ("mb", 4, 2, 128, 6),
    ("mb", 6, 1, 160, 9),
    ("mb", 6, 2, 256, 15),
)
STEM_STRIDE = 2
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels in [0, 1], by which the input is normalised."""


class EfficientNetEncoder(ModelMixin, ConfigMixin):
    """Images → the latents of Stage C. The defaults are those of the published encoder.

    `stages`: see `Stage`. `stem`: channels after the first convolution. `features`: channels before the mapper.
    """

    @register_to_config
    def __init__(
        self,
        stages: Sequence[Stage] = EFFICIENTNET_V2_S,
        stem: int = 24,
        features: int = 1280,
        latent_channels: int = 16,
    ) -> None:
        super().__init__()
        self.backbone = efficient_net(stages, stem, features)
        self.mapper = nn.Sequential(
            nn.Conv2d(features, latent_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(latent_channels, affine=False),
        )

    @property
    def reduction(self) -> int:
        """Input pixels per latent along one side: 32."""
        return STEM_STRIDE * prod(stride for _, _, stride, _, _ in self.config.stages)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → latents (B, C, h, w) with h = ⌈H / reduction⌉. Deterministic, without scaling."""
        mean, deviation = (torch.tensor(each).to(pixels).view(1, 3, 1, 1) for each in (MEAN, DEVIATION))
        return self.mapper(self.backbone(((pixels - mean) / deviation).to(self.dtype)))


def efficient_net(stages: Sequence[Stage], stem: int, features: int) -> nn.Sequential:
    """The network up to its last convolution: pixels (B, 3, H, W) → (B, features, h, w)."""
    layers: list[nn.Module] = [_conv(3, stem, stride=STEM_STRIDE)]
    channels = stem
    for kind, expansion, stride, outputs, count in stages:
        make = FusedBlock if kind == "fused" else InvertedBlock
        first = make(channels, outputs, expansion, stride)
        layers.append(nn.Sequential(first, *(make(outputs, outputs, expansion, 1) for _ in range(count - 1))))
        channels = outputs
    return nn.Sequential(*layers, _conv(channels, features, kernel=1))


class FusedBlock(nn.Module):
    """A 3 × 3 convolution that expands, and a 1 × 1 convolution that projects back; without expansion, a single
    convolution."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        wide = inputs * expansion
        self.block = nn.Sequential(
            *(
                [_conv(inputs, outputs, stride=stride)]
                if expansion == 1
                else [_conv(inputs, wide, stride=stride), _conv(wide, outputs, kernel=1, active=False)]
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features) if self.adds else self.block(features)


class InvertedBlock(nn.Module):
    """MBConv (Sandler et al. 2018): expand, convolve each channel, weigh the channels, and project back."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        wide = inputs * expansion
        self.block = nn.Sequential(
            _conv(inputs, wide, kernel=1),
            _conv(wide, wide, stride=stride, groups=wide),
            SqueezeExcitation(wide, max(1, inputs // 4)),
            _conv(wide, outputs, kernel=1, active=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features) if self.adds else self.block(features)


class SqueezeExcitation(nn.Module):
    """A weight for each channel, from the means of all (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.fc2(functional.silu(self.fc1(features.mean((2, 3), keepdim=True))))
        return features * weights.sigmoid()


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """A convolution with batch norm and, where `active`, SiLU."""
    layers: list[Any] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([nn.SiLU()] if active else []))
