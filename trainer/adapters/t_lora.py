"""T-LoRA (Soboleva et al. 2025, arXiv 2507.05964): the higher the noise, the fewer components of a LoRA are used.

Layout and background are determined at high noise, where a full rank overfits to few images.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer as PeftLoraLayer
from torch import Tensor

from artifact.layers import LoraLayer, TimedLoraLayer
from artifact.layers.timed_lora import TO_THE_END
from trainer.adapters.kind import ADAPTER, AdapterKind


def component_times(rank: int, least: int) -> Tensor:
    """(rank, 2): the range of the noise level τ, 0 to 1, in which each component is used.

    ⌈(1 - τ)(rank - least + 1)⌉ + least - 1 of them are used at τ: all for clean latents, `least` for pure noise. The
    paper (equation 3) rounds down with rank - least, so its last component is only used at τ = 0 and never trained.
    """
    steps = rank - least + 1
    ends = [TO_THE_END if number < least else 1 - (number + 1 - least) / steps for number in range(rank)]
    return torch.stack([torch.zeros(rank), torch.tensor(ends)], dim=1)


def _config(rank: int, alpha: float, paths: Sequence[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(paths))


def _layer(module: Any) -> TimedLoraLayer:
    down, up = (part[ADAPTER].weight.detach().float().cpu().clone() for part in (module.lora_A, module.lora_B))
    plain = LoraLayer(down, up, float(module.scaling[ADAPTER]) * len(down))
    return TimedLoraLayer(plain, module.lora_variant[ADAPTER].acting.times.cpu().clone())


T_LORA = AdapterKind(
    _config,
    _layer,
    PeftLoraLayer,
    in_base_precision=True,
    opens="only predict.py applies the timestep range of each component; diffusers refuses the file, and in ComfyUI "
    "all components are always used, which is too strong. `python -m artifact resize --base` writes a plain LoRA "
    "of the mean effect",
)
