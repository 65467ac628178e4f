"""Networks that encode the condition of Stage C's ControlNets, for the original code's modes large and simple.

Tensors have the original's names: `0.weight`, `3.blocks.2.weight`.
"""

from torch import Tensor, nn

LEAK = 0.2
FEATURES = 1280
"""Width of the published base, for which the original's widths are given. For other bases they are scaled with it."""
WIDE, NARROW, BLOCKS = 16384, 1024, 8
EXPANSION = 4


def large_network(channels: int, features: int) -> nn.Sequential:
    """Latents of the encoder (B, channels, h, w) → (B, features, h, w)."""
    wide, narrow = (max(1, features * width // FEATURES) for width in (WIDE, NARROW))
    return nn.Sequential(
        nn.Conv2d(channels, wide, kernel_size=1),
        nn.LeakyReLU(LEAK),
        nn.Conv2d(wide, narrow, kernel_size=1),
        *(ResidualBlock(narrow) for _ in range(BLOCKS)),
        nn.Conv2d(narrow, features, kernel_size=1),
    )


def simple_network(channels: int) -> nn.Sequential:
    """Face embeddings written into cells of the latents' size, (B, channels, h, w) → (B, channels, h, w)."""
    wide = EXPANSION * channels
    return nn.Sequential(
        nn.Conv2d(channels, wide, kernel_size=3, padding=1),
        nn.LeakyReLU(LEAK),
        nn.Conv2d(wide, channels, kernel_size=3, padding=1),
    )


class ResidualBlock(nn.Module):
    """A residual block of two 3 × 3 convolutions, each after a norm and GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        halves = (
            (ChannelNorm(channels), nn.GELU(), nn.Conv2d(channels, channels, kernel_size=3, padding=1))
            for _ in range(2)
        )
        self.blocks = nn.Sequential(*(layer for half in halves for layer in half))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.blocks(features)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels at each position (B, C, h, w)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
