"""ComfyUI's nodes for loading and sampling a base model, by diffusers' name of its pipeline.

Names of nodes and inputs are those of ComfyUI's nodes.py and comfy_extras (nodes_sd3, nodes_flux, nodes_model_advanced)
in the versions that docs/artifact.md names. File names are those of ComfyUI's examples; users select their own files if
these have other names.
"""

from dataclasses import dataclass
from typing import Literal

from families.flux1 import Flux1
from families.flux2 import DEV_PIPELINE, Flux2
from families.qwen_image import QwenImage
from families.sd3 import SD3
from families.sd15 import SD15
from families.sdxl import SDXL
from families.z_image import ZImage

OF_16_CHANNELS = "EmptySD3LatentImage"
CLIP_L, CLIP_G, T5 = "clip_l.safetensors", "clip_g.safetensors", "t5xxl_fp16.safetensors"


@dataclass(frozen=True)
class ComfyBase:
    """How ComfyUI opens a base. `encoders`: files of text encoders; empty if the checkpoint contains them. `kind`: name
    of the family in their loader; the loader of three has no such input. `vae`: its file; None if the checkpoint
    contains it. `latents`: the node that creates empty ones. `schedule`: of the sampler. `shift`: of timesteps, by
    ModelSamplingAuraFlow; None: the base's own. `guidance`: cfg: the sampler's; embedded: an input of the denoiser, by
    FluxGuidance. `magnitudes`: whether ComfyUI reads those of a DoRA, under the names of files for this base.
    `cfg_offset`: added to the pipeline's guidance scale, if 0 and not 1 means no guidance there.
    """

    encoders: tuple[str, ...] = ()
    kind: str = ""
    vae: str | None = None
    latents: str = OF_16_CHANNELS
    schedule: str = "simple"
    shift: float | None = None
    guidance: Literal["cfg", "embedded"] = "cfg"
    cfg_offset: float = 0.0
    magnitudes: bool = False


ONE_FILE = ComfyBase(latents="EmptyLatentImage", schedule="normal", magnitudes=True)
FLUX2_VAE, FLUX2_LATENTS = "flux2-vae.safetensors", "EmptyFlux2LatentImage"
BASES = {
    SD15.pipeline_class_name: ONE_FILE,
    SDXL.pipeline_class_name: ONE_FILE,
    SD3.pipeline_class_name: ComfyBase((CLIP_L, CLIP_G, T5)),
    Flux1.pipeline_class_name: ComfyBase((CLIP_L, T5), "flux", "ae.safetensors", guidance="embedded"),
    DEV_PIPELINE: ComfyBase(
        ("mistral_3_small_flux2_bf16.safetensors",), "flux2", FLUX2_VAE, FLUX2_LATENTS, guidance="embedded"
    ),
    Flux2.pipeline_class_name: ComfyBase(("qwen_3_4b.safetensors",), "flux2", FLUX2_VAE, FLUX2_LATENTS),
    QwenImage.pipeline_class_name: ComfyBase(
        ("qwen_2.5_vl_7b_fp8_scaled.safetensors",), "qwen_image", "qwen_image_vae.safetensors", shift=3.1
    ),
    ZImage.pipeline_class_name: ComfyBase(
        ("qwen_3_4b.safetensors",), "lumina2", "ae.safetensors", shift=3.0, cfg_offset=1.0
    ),
}


def comfy_base(pipeline: str) -> ComfyBase | None:
    """Return how ComfyUI opens bases of that pipeline; None if it loads them in another way."""
    return BASES.get(pipeline)
