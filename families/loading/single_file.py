"""Identifies a single-file checkpoint by the names and shapes of its tensors. No weights are loaded here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from families.errors import BaseModelError
from families.loading.opening import PredictionChoice

Shapes = Mapping[str, tuple[int, ...]]

FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
V_PREDICTION_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Names of empty tensors that mark a file for v-prediction, and for a noise schedule that ends at zero SNR."""


@dataclass(frozen=True)
class DenoiserFile:
    """A kind of file that contains only the denoiser of `pipeline_class`. `marks`: tensors that it always contains,
    under the original names or diffusers'. `parts_from`: an example of a hub model that has the other components.
    """

    pipeline_class: str
    marks: tuple[tuple[str, ...], ...]
    parts_from: str


FLUX2_MARK = "double_stream_modulation_img.{}.weight"
ALONE = (
    DenoiserFile(
        "FluxPipeline",
        (
            ("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight"),
            ("single_transformer_blocks.0.proj_mlp.weight", "time_text_embed.text_embedder.linear_1.weight"),
        ),
        "black-forest-labs/FLUX.1-dev",
    ),
    DenoiserFile(
        "Flux2Pipeline",
        (
            (FLUX2_MARK.format("lin"), "guidance_in.in_layer.weight"),
            (FLUX2_MARK.format("linear"), "time_guidance_embed.guidance_embedder.linear_1.weight"),
        ),
        "black-forest-labs/FLUX.2-dev",
    ),
    DenoiserFile(
        "Flux2KleinPipeline",
        ((FLUX2_MARK.format("lin"),), (FLUX2_MARK.format("linear"),)),
        "black-forest-labs/FLUX.2-klein-base-4B",
    ),
    DenoiserFile(
        "QwenImagePipeline",
        (("txt_norm.weight", "transformer_blocks.0.img_mod.1.weight"),),  # the original names are those of diffusers
        "Qwen/Qwen-Image",
    ),
    DenoiserFile(
        "ZImagePipeline",
        (
            ("layers.0.attention.qkv.weight", "cap_pad_token"),  # Lumina 2 also has the first
            ("layers.0.attention.to_q.weight", "cap_pad_token"),
        ),
        "Tongyi-MAI/Z-Image",
    ),
    DenoiserFile(
        "StableCascadePriorPipeline",
        (("clip_txt_mapper.weight", "clip_img_mapper.weight", "down_blocks.0.0.channelwise.0.weight"),),
        "stabilityai/stable-cascade-prior",
    ),
    DenoiserFile(
        "StableCascadeDecoderPipeline",
        (("effnet_mapper.0.weight", "pixels_mapper.0.weight", "down_blocks.0.0.channelwise.0.weight"),),
        "stabilityai/stable-cascade",
    ),
)
"""Families whose denoiser can be loaded alone from a single file; the pipeline's other parts come from base_config. The
first match is used: klein's file lacks layers that dev's has."""
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""Possible prefixes of a denoiser's tensor names."""

COMPLETE = {
    "StableDiffusionXLPipeline": ("first_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1."),
    "StableDiffusionPipeline": ("first_stage_model.", "cond_stage_model."),
    "StableDiffusion3Pipeline": ("first_stage_model.", "text_encoders.clip_l.", "text_encoders.clip_g."),
}
"""The parts that a family's file must contain in addition to the denoiser."""

UNSUPPORTED = (
    (
        ("lora_down", "lora_up", ".lora_A.", ".lora_B.", "hada_w", "lokr_w"),
        "a LoRA, not a base model. Set base_model to the model that it was trained on",
    ),
    (("emb_params", "clip_l", "clip_g", "string_to_param"), "a textual inversion embedding, not a base model"),
    (("control_model.", "controlnet_cond_embedding."), "a ControlNet, not a base model"),
    (("txt_in.text_norm.",), "a Qwen-Image 2.1 model, a family that is not supported yet"),
    (("__index_timestep_zero__",), "a Qwen-Image-Edit model. Train on the text-to-image model that it was made from"),
    (("addition_t_embedding.",), "a Qwen-Image-Layered model, which splits images into layers. Train on Qwen-Image"),
    (("distilled_guidance_layer.",), "a Chroma model, a family that is not supported"),
    (
        ("scale_weight", "scaled_fp8", ".weight_scale", "comfy_quant", ".absmax", ".quant_map"),
        "a checkpoint with weights quantised to 8 or 4 bits, which is not supported. Use the one in bf16",
    ),
    (("mapper.1.running_mean",), "Stable Cascade's image encoder, not a base model. Train on Stage C"),
    (
        ("edm_mean", "edm_vpred."),
        "a model with EDM's noise schedule, such as Playground 2.5 or CosXL, whose single file does not contain all "
        "parameters of the schedule. Use it in diffusers' layout, as a folder or hub model",
    ),
)
"""Parts of tensor names, and a description of files that contain them."""


@dataclass(frozen=True)
class SingleFile:
    """`pipeline_class`: diffusers' name of its pipeline. `prediction_type`: auto if the file does not define it.
    `parts_from`: if only its denoiser is loaded, an example of a hub model with the other components, for base_config.
    """

    pipeline_class: str
    prediction_type: PredictionChoice = "auto"
    zero_terminal_snr: bool = False
    parts_from: str | None = None


def inspect_single_file(path: Path) -> SingleFile:
    """Identify a file. Raises BaseModelError for a file that is unreadable, incomplete, or not a supported base model,
    with what it is."""
    shapes = _read_shapes(path)
    for marks, what in UNSUPPORTED:
        if any(mark in name for name in shapes for mark in marks if not name.startswith("text_encoders.")):
            raise BaseModelError(f"base_model: {path} is {what}")
    if (kind := _denoiser_alone(shapes)) is not None:
        return SingleFile(kind.pipeline_class, parts_from=kind.parts_from)
    pipeline_class = _pipeline_class(shapes, path)
    missing = [part for part in COMPLETE[pipeline_class] if not any(name.startswith(part) for name in shapes)]
    if missing:
        raise BaseModelError(
            f"base_model: {path} is incomplete: it has no tensors named {missing[0]}…. Use a checkpoint that contains "
            "the VAE and the text encoders, or a folder in diffusers' layout."
        )
    marked = V_PREDICTION_MARK in shapes
    return SingleFile(pipeline_class, "v_prediction" if marked else "auto", ZERO_SNR_MARK in shapes)


def has_tensors(path: Path, prefix: str) -> bool:
    """Whether a file contains tensors whose names have this prefix."""
    return any(name.startswith(prefix) for name in _read_shapes(path))


def denoiser_tensors(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The denoiser's tensors of a kind of file in `ALONE`, read directly to `device`, without a prefix."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        return {name: file.get_tensor(key).to(dtype) for name, key in denoiser_names(file.keys()).items()}


def denoiser_names(keys: Iterable[str]) -> dict[str, str]:
    """The names of the denoiser's tensors without a prefix, with their names in the file."""
    keys = list(keys)
    prefix = next((each for each in PREFIXES if any(key.startswith(each) for key in keys)), "")
    return {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}


def _denoiser_alone(shapes: Shapes) -> DenoiserFile | None:
    """The kind of a file from which only the denoiser is loaded."""
    names = {name.removeprefix(prefix) for name in shapes for prefix in PREFIXES} | set(shapes)
    return next((kind for kind in ALONE if any(names.issuperset(marks) for marks in kind.marks)), None)


def _pipeline_class(shapes: Shapes, path: Path) -> str:
    if any(name.startswith("model.diffusion_model.joint_blocks.") for name in shapes):
        return "StableDiffusion3Pipeline"
    if FIRST_LAYER not in shapes:
        raise BaseModelError(
            f"base_model: {path} is not an SD1.5, SD2, SDXL, SD3, FLUX, Qwen-Image or Z-Image checkpoint: its tensors "
            f"have names such as {next(iter(shapes), '(no tensors)')}. For the Stable Diffusion families, the denoiser "
            "alone is not sufficient: use a complete checkpoint."
        )
    channels = shapes[FIRST_LAYER][1]
    if channels != 4:
        kind = {9: "an inpainting model", 8: "an image-editing model"}.get(channels, "not a text-to-image model")
        raise BaseModelError(
            f"base_model: {path} is {kind}: its UNet has {channels} input channels instead of 4. Train on the "
            "text-to-image model that it was made from."
        )
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
            raise BaseModelError(f"base_model: {path} is SDXL's refiner. Train on the SDXL base.")
        return "StableDiffusionXLPipeline"
    return "StableDiffusionPipeline"


def _read_shapes(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise BaseModelError(f"base_model: {path} is not a readable .safetensors file ({error})") from error
