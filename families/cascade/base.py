"""What the bases of both trained stages have in common."""

from collections.abc import Iterator
from typing import Any

from families.errors import BaseModelError
from families.loading.opening import LoadingOptions
from families.loading.sources import BaseModelSource

LICENCE = "Stability AI Non-Commercial Research Community License"
LIMITED_LICENCE = (
    f"the weights of Stable Cascade are under the {LICENCE}: non-commercial use only, and what is trained from "
    "them stays under it"
)
FP16_OVERFLOW = "Stage C of Stable Cascade overflows in fp16, and the weights are published in fp32 and bf16 alone"
GLOBAL_RESPONSE_NORM = "channelwise.2"
"""In every residual block; its two parameters are no weight and bias, which no LoRA file can name."""


def nameless_norms(stage: Any) -> Iterator[str]:
    """Paths of the norms whose parameters no file can name."""
    return (path for path, _ in stage.named_modules() if path.endswith(f".{GLOBAL_RESPONSE_NORM}"))


def refuse_noise_options(source: BaseModelSource, options: LoadingOptions) -> None:
    """Raises BaseModelError for options of discrete diffusions."""
    if options.prediction_type not in ("auto", "epsilon"):
        raise BaseModelError(f"prediction_type: {source.name} is a Stable Cascade, which predicts ε; leave it out")
    if options.zero_terminal_snr:
        raise BaseModelError(
            f"zero_terminal_snr: {source.name} is a Stable Cascade, which predicts ε: that says nothing of the picture "
            "where all is noise; leave it out"
        )
