"""OFT by peft: rotates blocks of a layer's inputs and adds nothing (Qiu et al. 2023, arXiv 2306.07280).

peft parametrises the rotations as OFTv2 does (Qiu et al. 2025, arXiv 2506.19847), without a matrix inverse.
"""

from collections.abc import Sequence
from typing import Any

from peft import OFTConfig
from peft.tuners.oft.layer import OFTLayer as PeftOftLayer
from torch import Tensor

from artifact.layers import OftLayer
from trainer.adapters.kind import ADAPTER, AdapterKind


def _config(rank: int, alpha: float, paths: Sequence[str]) -> OFTConfig:
    """`rank` is the block size. If it does not divide the number of inputs, peft uses the nearest size that does.

    `alpha` is ignored: a rotation has no scale.
    """
    return OFTConfig(r=0, oft_block_size=rank, target_modules=list(paths))


def _layer(module: Any) -> OftLayer:
    return OftLayer(module.oft_R[ADAPTER].weight.detach().float().cpu().clone())


def _change(module: Any) -> Tensor:
    """Return ΔW. peft's own `get_delta_weight` returns the rotation R for OFT."""
    return OftLayer(module.oft_R[ADAPTER].weight.detach()).delta(module.get_base_layer().weight)


OFT = AdapterKind(
    _config,
    _layer,
    PeftOftLayer,
    linear_only=True,
    opens="its file has peft's names, as OneTrainer's files do: predict.py opens it, ComfyUI with a node for OFTv2; "
    "diffusers and A1111 do not. `python -m artifact resize --base` converts it to a plain LoRA",
    change=_change,
)
