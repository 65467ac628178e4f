"""The network of Stages C and B, with the timestep embedded in fp32, and with the features of a ControlNet."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import StableCascadeUNet
from diffusers.models.unets.unet_stable_cascade import SDCascadeResBlock, SDCascadeTimestepBlock
from torch import Tensor, nn
from torch.nn import functional

NOTHING: Mapping[nn.Module, Tensor] = MappingProxyType({})


class CascadeUNet(StableCascadeUNet):
    """diffusers' network. Its time embedding takes the sine of 10,000 · t in the dtype of t, which in bf16 would be
    mostly rounding errors. Here it is computed in fp32, as in the original, and then gets the weights' dtype."""

    _repeated_blocks: ClassVar[list[str]] = ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]
    """diffusers does not list any; these blocks are compiled, and may be stored in fewer bits."""
    _added: Mapping[nn.Module, Tensor] = NOTHING
    """The residuals by residual block, during a pass."""

    @property
    def residual_blocks(self) -> list[nn.Module]:
        """In the order in which they run, by which ControlNets number them."""
        levels = (*self.down_blocks, *self.up_blocks)
        return [block for level in levels for block in level if isinstance(block, SDCascadeResBlock)]

    def forward(self, *inputs: Any, residuals: Mapping[int, Tensor] | None = None, **conditions: Any) -> Any:
        """As diffusers'. `residuals`: added to the input of residual blocks, by their number: (B, C, h, w) each, scaled
        to the input's size; fewer than the inputs are repeated, as where guidance doubles a batch.
        """
        if not residuals:
            return super().forward(*inputs, **conditions)
        blocks = self.residual_blocks
        self._added = {blocks[number]: residual for number, residual in residuals.items()}
        try:
            return super().forward(*inputs, **conditions)
        finally:
            del self._added

    def get_timestep_ratio_embedding(self, timestep_ratio: Tensor, max_positions: int = 10000) -> Tensor:
        """(B, timestep_ratio_embedding_dim) for times (B,) in [0, 1]."""
        embedding: Any = super().get_timestep_ratio_embedding(timestep_ratio.float(), max_positions)
        return embedding.to(self.clip_txt_pooled_mapper.bias.dtype)

    def _down_encode(self, x: Tensor, r_embed: Tensor, clip: Tensor) -> list[Tensor]:
        """As in diffusers, but with residuals. They are added outside of the blocks, which may be compiled or run
        twice."""
        outputs: list[Tensor] = []
        for blocks, scaler, mappers in zip(
            self.down_blocks, self.down_downscalers, self.down_repeat_mappers, strict=True
        ):
            x = self._level(blocks, mappers, scaler(x), r_embed, clip)
            outputs.insert(0, x)
        return outputs

    def _up_decode(self, level_outputs: Sequence[Tensor], r_embed: Tensor, clip: Tensor) -> Tensor:
        x, skips = level_outputs[0], (None, *level_outputs[1:])
        for blocks, scaler, mappers, skip in zip(
            self.up_blocks, self.up_upscalers, self.up_repeat_mappers, skips, strict=True
        ):
            x = scaler(self._level(blocks, mappers, x, r_embed, clip, skip))
        return x

    def _level(
        self,
        blocks: Iterable[nn.Module],
        mappers: Sequence[nn.Module],
        x: Tensor,
        time: Tensor,
        text: Tensor,
        skip: Tensor | None = None,
    ) -> Tensor:
        """Run the blocks of a level once, and again after each mapper. `skip`: additional input of the first block."""
        for mapper in (None, *mappers):
            x = x if mapper is None else mapper(x)
            for number, block in enumerate(blocks):
                if not isinstance(block, SDCascadeResBlock):
                    x = self._run(block, x, time if isinstance(block, SDCascadeTimestepBlock) else text)
                    continue
                beside = skip if number == 0 else None
                x = x if beside is None else _scaled(x, beside)
                if block in self._added:
                    x = x + _repeated(_scaled(self._added[block], x).to(x.dtype), len(x))
                x = self._run(block, x, beside)
        return x

    def _run(self, block: nn.Module, x: Tensor, beside: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, x, beside)
        return block(x, beside)


def _scaled(x: Tensor, like: Tensor) -> Tensor:
    """`x`, resized to the height and width of `like`."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return functional.interpolate(x.float(), like.shape[-2:], mode="bilinear", align_corners=True).to(x.dtype)


def _repeated(residual: Tensor, count: int) -> Tensor:
    return residual.repeat(count // len(residual), 1, 1, 1)
