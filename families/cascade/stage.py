"""Stage C and Stage B's network, with the time read in fp32."""

from typing import Any, ClassVar

from diffusers import StableCascadeUNet
from torch import Tensor


class CascadeUNet(StableCascadeUNet):
    """diffusers' network. Its time embedding takes the sine of 10,000 · t in the dtype of t, which in bf16 would be
    mostly rounding errors. Here it is computed in fp32, as in the original, and then gets the weights' dtype."""

    _repeated_blocks: ClassVar[list[str]] = ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]
    """diffusers lists none; they are compiled, and may be stored in fewer bits."""

    def get_timestep_ratio_embedding(self, timestep_ratio: Tensor, max_positions: int = 10000) -> Tensor:
        """(B, timestep_ratio_embedding_dim) for times (B,) in [0, 1]."""
        embedding: Any = super().get_timestep_ratio_embedding(timestep_ratio.float(), max_positions)
        return embedding.to(self.clip_txt_pooled_mapper.bias.dtype)
