"""T-LoRA (Soboleva et al. 2025, arXiv 2507.05964): the higher the noise, the fewer components of a LoRA are used.

Layout and background are decided at high noise, where a full rank learns them by heart from few pictures.
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
    """(rank, 2): from where to where on the way to noise, τ in 0 to 1, each component acts.

    ⌈(1 - τ)(rank - least + 1)⌉ + least - 1 of them act at τ: all at the clean end, `least` at pure noise. The paper
    (equation 3) rounds down with rank - least, and by that its last component acts at τ = 0 alone and never learns.
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
    opens="only predict.py knows at which timesteps its components act; diffusers refuses the file, and ComfyUI lets "
    "all of them act always, which is too strong. `python -m artifact resize --base` makes a plain LoRA of the mean",
)
