"""Shared code of the two stages that can be trained."""

from collections.abc import Iterator
from typing import Any

from families.errors import BaseModelError
from families.loading.opening import LoadingOptions
from families.loading.sources import BaseModelSource

LICENCE = "Stability AI Non-Commercial Research Community License"
LIMITED_LICENCE = (
    f"the weights of Stable Cascade are under the {LICENCE}: non-commercial use only, also for models that are trained "
    "from them"
)
FP16_OVERFLOW = "Stage C of Stable Cascade overflows in fp16; the weights are only published in fp32 and bf16"
GLOBAL_RESPONSE_NORM = "channelwise.2"
"""A norm in every residual block. Its two parameters are not called weight and bias, so LoRA files have no name for
them."""


def nameless_norms(stage: Any) -> Iterator[str]:
    """Paths of the norms whose parameters have no name in LoRA files."""
    return (path for path, _ in stage.named_modules() if path.endswith(f".{GLOBAL_RESPONSE_NORM}"))


def refuse_noise_options(source: BaseModelSource, options: LoadingOptions) -> None:
    """Raises BaseModelError for options of discrete diffusions."""
    if options.prediction_type not in ("auto", "epsilon"):
        raise BaseModelError(
            f"prediction_type: {source.name} is a Stable Cascade model, which predicts ε; leave it out"
        )
    if options.zero_terminal_snr:
        raise BaseModelError(
            f"zero_terminal_snr: {source.name} is a Stable Cascade model, which predicts ε: at zero terminal SNR, ε "
            "contains no information about the image; leave it out"
        )
