"""Notes on guidance settings that have no effect on the base."""

from collections.abc import Iterator

from families.family import ModelFamily
from sampler.pipelines import pipeline_for, takes_guidance_rescale
from sampler.request import SampleRequest


def guidance_notes(original: SampleRequest, request: SampleRequest, family: ModelFamily) -> Iterator[str]:
    """Yield lines on guidance settings without effect, or with a usual value for this base.

    `original`: the original request. `request`: the same with the base's defaults filled in.
    """
    if family.guidance_kind != "classifier-free":
        yield from _distilled_notes(original, family)
        return
    if original.negative_prompt and request.guidance_scale == 0:
        yield "warning: negative_prompt has no effect without guidance: guidance_scale is 0"
    if request.guidance_scale <= 1:
        if request.guidance_rescale:
            yield "warning: guidance_rescale has no effect without guidance, that is at guidance_scale 1 or less"
        return
    process = family.noise_process
    if (
        request.guidance_rescale == 0
        and process.zero_terminal_snr
        and process.prediction_type == "v_prediction"
        and takes_guidance_rescale(pipeline_for(request, family))
    ):
        yield "guidance_rescale is 0: this base model has zero terminal SNR, so guidance may overexpose; usually 0.7"


def _distilled_notes(original: SampleRequest, family: ModelFamily) -> Iterator[str]:
    if original.negative_prompt:
        yield (
            f"warning: negative_prompt has no effect: this base model ({family.name}) is guidance-distilled and has no "
            "input for it. Describe the wanted content in the prompt instead."
        )
    own = family.defaults.guidance_scale
    if family.guidance_kind == "none" and "guidance_scale" not in original.left_open and original.guidance_scale != own:
        yield f"warning: guidance_scale has no effect: this base ({family.name}) is distilled and has no input for it"
