"""Parses the module names of a LoRA file without a base model: component and path, as diffusers names them.

kohya's names replace every `.` by `_`, so words that contain a `_` themselves must be known to parse them.
"""

import re
from typing import Literal, NamedTuple

from artifact.errors import ArtifactError
from artifact.names.kohya import (
    DECODER_PREFIX,
    OTHER_LAYERS,
    PRIOR_ENCODER_PREFIX,
    PRIOR_PREFIX,
    RESNET_LAYERS,
    diffusers_prior_path,
    native_prior_path,
    sgm_block,
)
from families.lora_files import has_prior_names, has_sgm_names

# fmt: off
WORDS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in",
    "proj_out", "conv_in", "conv_out", "conv_shortcut", "conv_norm_out", "time_emb_proj", "time_embedding",
    "add_embedding", "linear_1", "linear_2", "input_blocks", "output_blocks", "middle_block", "in_layers",
    "out_layers", "emb_layers", "skip_connection", "time_embed", "label_emb", "text_model", "self_attn", "q_proj",
    "k_proj", "v_proj", "out_proj", "text_projection", "final_layer_norm", "layer_norm1", "layer_norm2", "add_q_proj",
    "add_k_proj", "add_v_proj", "to_add_out", "ff_context", "norm1_context", "norm_q", "norm_k", "norm_added_q",
    "norm_added_k", "norm_out", "context_embedder", "pos_embed", "time_text_embed", "timestep_embedder",
    "text_embedder", "kv_mapper", "clip_txt_mapper", "clip_txt_pooled_mapper", "clip_img_mapper", "mapper_sca",
    "mapper_crp", "effnet_mapper", "pixels_mapper", "down_downscalers", "up_upscalers", "down_repeat_mappers",
    "up_repeat_mappers",
)
# fmt: on
PARTS = re.compile("|".join([*(rf"{word}(?=_|$)" for word in sorted(WORDS, key=len, reverse=True)), "[^_]+"]))
KOHYA_COMPONENTS = {
    PRIOR_PREFIX: "prior",
    DECODER_PREFIX: "decoder",
    PRIOR_ENCODER_PREFIX: "text_encoder",
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_transformer_": "transformer",
}
PEFT_COMPONENTS = ("unet", "transformer", "prior", "decoder", "text_encoder", "text_encoder_2", "text_encoder_3")
OF_STAGES = {"prior": PRIOR_PREFIX, "decoder": DECODER_PREFIX}
OF_A_PRIOR = re.compile(r"\.attention\.attn\.|\.channelwise\.|\.kv_mapper\.")
"""Parts that only the paths of a prior contain: ComfyUI also reads them with the prefix of UNets."""
LAYERS_PER_BLOCK = 2
"""The value of every UNet by Stability; sgm's block numbers depend on it."""
FROM_RESNET = {sgm: name for name, sgm in RESNET_LAYERS.items()}
FROM_OTHER = {sgm: name for name, sgm in OTHER_LAYERS.items()}
Naming = Literal["kohya", "diffusers", "ai-toolkit"]


class ModuleName(NamedTuple):
    """`component`: unet, transformer, prior, decoder, text_encoder, text_encoder_2 …; `path`: the dotted path of the
    module in it."""

    component: str
    path: str


def parse(name: str) -> ModuleName:
    """Parse a name of kohya or peft. Raises ArtifactError for any other."""
    for prefix, component in KOHYA_COMPONENTS.items():
        if name.startswith(prefix):
            dotted = ".".join(PARTS.findall(name.removeprefix(prefix)))
            if component in OF_STAGES:
                return ModuleName(component, diffusers_prior_path(dotted))
            if component == "unet" and OF_A_PRIOR.search(dotted):
                return ModuleName("prior", diffusers_prior_path(dotted))
            return ModuleName(component, diffusers_path(dotted) if component == "unet" else dotted)
    component, _, path = name.partition(".")
    if component in PEFT_COMPONENTS and path:
        inserted = component in ("text_encoder", "text_encoder_2") and path.startswith("encoder.")
        return ModuleName(component, f"text_model.{path}" if inserted else path)
    raise ArtifactError(f"{name}: is not a module name of kohya or diffusers")


def diffusers_path(path: str) -> str:
    """Convert an sgm path to diffusers' path, the inverse of `artifact.names.kohya.sgm_block`. Other paths are
    unchanged."""
    per_level = LAYERS_PER_BLOCK + 1
    if match := re.fullmatch(r"input_blocks\.(\d+)\.0\.op", path):
        return f"down_blocks.{int(match[1]) // per_level - 1}.downsamplers.0.conv"
    if match := re.fullmatch(r"output_blocks\.(\d+)\.[12]\.conv", path):
        return f"up_blocks.{int(match[1]) // per_level}.upsamplers.0.conv"
    if path in FROM_OTHER:
        return FROM_OTHER[path]
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.([01])\.(.+)", path):
        way, number, part, rest = match.groups()
        level, layer = divmod(int(number) - (way == "input"), per_level)
        block = f"{'down' if way == 'input' else 'up'}_blocks.{level}"
        return f"{block}.{'attentions' if part == '1' else 'resnets'}.{layer}.{_layer(part, rest)}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        number, rest = match.groups()
        if number == "1":
            return f"mid_block.attentions.0.{rest}"
        return f"mid_block.resnets.{int(number) // 2}.{_layer('0', rest)}"
    return path


def written(module: ModuleName, naming: Naming, family: str) -> str:
    """Return the module's name in a file: kohya's files have sgm blocks for SDXL, diffusers' blocks for SD1.5 and SD2.

    Raises ArtifactError for kohya's names of a transformer, since tools do not agree on them.
    """
    component, path = module
    if naming == "diffusers":
        return f"{component}.{path}"
    if component == "unet":
        blocks = sgm_block(path, LAYERS_PER_BLOCK) if has_sgm_names(family) else path
        return "lora_unet_" + blocks.replace(".", "_")
    if component in OF_STAGES:
        return OF_STAGES[component] + native_prior_path(path).replace(".", "_")
    if component == "text_encoder" and has_prior_names(family):
        return PRIOR_ENCODER_PREFIX + path.replace(".", "_")
    if component not in ("text_encoder", "text_encoder_2"):
        raise ArtifactError(
            f"kohya's names only exist for UNets, and {component}.{path} is not in one. Use --format diffusers."
        )
    encoder = {"text_encoder": "te1" if has_sgm_names(family) else "te", "text_encoder_2": "te2"}[component]
    return f"lora_{encoder}_" + path.replace(".", "_")


def _layer(part: str, rest: str) -> str:
    return rest if part == "1" else FROM_RESNET.get(rest, rest)
