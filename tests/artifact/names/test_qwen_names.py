"""Tests of Qwen-Image's layer names at full size in ComfyUI, and of other tools' files in our code and in diffusers."""

from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.names.kohya import file_names
from artifact.names.qwen_blocks import AROUND, IN_BLOCK
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.lora_files import family_of_modules
from families.qwen_image import IDLE, QwenImage
from settings.sections.adapter import LoraTargets
from tests.artifact.names.test_comfyui_names import full_size, written
from tests.artifact.test_merging import near
from tests.families.test_family_files import predict, warnings_of
from tests.fast_part import slow_but
from tests.tiny_models import opened
from tests.tiny_qwen_image import write_qwen_image
from trainer.adapters.targets import layer_paths

BLOCKS, WIDTH, TEXT = 60, 24 * 128, 3584
SQUARE, OPENING, CLOSING = (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)


def comfyui_modules() -> dict[str, tuple[int, int]]:
    """Return the linear layers of ComfyUI's model of Qwen-Image, with rows and columns."""
    found = {
        "img_in": (WIDTH, 64),
        "txt_in": (WIDTH, TEXT),
        "norm_out.linear": (2 * WIDTH, WIDTH),
        "proj_out": (64, WIDTH),
        "time_text_embed.timestep_embedder.linear_1": (WIDTH, 256),
        "time_text_embed.timestep_embedder.linear_2": SQUARE,
    }
    for number in range(BLOCKS):
        block = f"transformer_blocks.{number}"
        for layer in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            found[f"{block}.attn.{layer}"] = SQUARE
        for stream in ("img", "txt"):
            found[f"{block}.{stream}_mod.1"] = (6 * WIDTH, WIDTH)
            found |= {f"{block}.{stream}_mlp.net.0.proj": OPENING, f"{block}.{stream}_mlp.net.2": CLOSING}
    return found


def comfyui_names(path: str) -> tuple[str, str, str]:
    """Return a layer's names in files: without a prefix, as in diffusers, and as in SimpleTuner's LyCORIS."""
    return path, f"transformer.{path}", f"lycoris_{path.replace('.', '_')}"


@pytest.fixture(scope="module")
def whole() -> ModelFamily:
    return full_size(QwenImage, QwenImageTransformer2DModel)


@pytest.mark.parametrize(("targets", "count"), [("attention", 60 * 8), ("attention+feed-forward", 60 * 12)])
def test_every_layer_has_its_place_in_comfyui(targets: LoraTargets, count: int, whole: ModelFamily) -> None:
    table = {comfyui_names(path)[1]: shape for path, shape in comfyui_modules().items()}
    layers = written(whole, targets)
    assert len(layers) == count and {name: table[name] for name in layers} == layers


@pytest.mark.slow
def test_all_linear_layers_have_one_too(whole: ModelFamily) -> None:
    """lora_target_regex can select any layer."""
    every = {file_names(whole)[path] for path in layer_paths(whole.denoiser)}
    assert every == {comfyui_names(path)[1] for path in comfyui_modules()}
    assert set(AROUND) == {path for path in comfyui_modules() if not path.startswith("transformer_blocks")}
    assert {f"transformer_blocks.7.{layer}" for layer in IN_BLOCK} == {
        path for path in comfyui_modules() if path.startswith("transformer_blocks.7.")
    }


RANK, ALPHA = 4, 2.0
TOOLS = {  # prefix of the path, and whether `_` replaces every dot
    "musubi-tuner": ("lora_unet_", True),
    "OneTrainer": ("lora_transformer_", True),
    "SimpleTuner's LyCORIS": ("lycoris_", True),
    "ai-toolkit": ("diffusion_model.", False),
    "diffusers": ("transformer.", False),
    "DiffSynth": ("", False),
}
NOT_IN_DIFFUSERS = ("OneTrainer", "SimpleTuner's LyCORIS")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_image(tmp_path_factory.mktemp("qwen") / "folder")


def foreign_file(family: ModelFamily, tool: str, path: Path) -> dict[str, Tensor]:
    """Write a random LoRA on every linear layer, with this tool's names. Returns the changed weights."""
    generator, tensors, changed = torch.Generator().manual_seed(0), dict[str, Tensor](), family.denoiser.state_dict()
    prefix, underscored = TOOLS[tool]
    middle = ".default" if tool == "DiffSynth" else ""
    for layer in layer_paths(family.denoiser):
        weight = changed[f"{layer}.weight"]
        down = 0.3 * torch.randn(RANK, weight.shape[1], generator=generator)
        up = 0.3 * torch.randn(weight.shape[0], RANK, generator=generator)
        name = prefix + (layer.replace(".", "_") if underscored else layer)
        if underscored:
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        else:
            tensors |= {f"{name}.lora_A{middle}.weight": down, f"{name}.lora_B{middle}.weight": up}
        changed[f"{layer}.weight"] = weight + (ALPHA / RANK if underscored else 1) * up @ down
    save_file(tensors, path)
    return changed


@pytest.mark.parametrize("tool", slow_but(["OneTrainer"], TOOLS))
def test_files_of_other_tools(tool: str, folder: Path, tmp_path: Path) -> None:
    """The effect is that of equal changes of weights. diffusers loads our conversion, and most of the foreign files."""
    family, changed, path = opened(folder), opened(folder), tmp_path / "foreign.safetensors"
    changed.denoiser.load_state_dict(foreign_file(family, tool, path))
    bare, wanted = predict(family), predict(changed)
    placed = PlacedArtifacts(family, [Artifact.read(path)])
    assert near(predict(family), wanted, bare)
    placed.remove()
    assert LoraFile.read(path).family == "qwen_image"
    convert(path, tmp_path / "ours.safetensors", "diffusers")
    for file, works in (("ours.safetensors", True), ("foreign.safetensors", tool not in NOT_IN_DIFFUSERS)):
        assert in_diffusers(family, tmp_path / file, wanted, bare) == works


def in_diffusers(family: ModelFamily, path: Path, wanted: Tensor, bare: Tensor) -> bool:
    """Return whether diffusers loads the whole file without a warning."""
    pipeline = family.pipeline()
    try:
        with warnings_of("diffusers") as warnings:
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
        return near(predict(family), wanted, bare) and warnings == []
    except (ValueError, KeyError, RuntimeError):
        return False
    finally:
        pipeline.unload_lora_weights()


def test_its_family_is_recognised_by_attention_alone() -> None:
    """The attention layers of SD3 have the same names, but SD3 has at most 38 blocks."""
    names = [("transformer", f"transformer_blocks.{number}.attn.to_q") for number in range(BLOCKS)]
    assert family_of_modules(names) == "qwen_image"
    assert family_of_modules(names[:38]) == "sd3"
    assert family_of_modules([*names[:38], ("transformer", "transformer_blocks.0.img_mod.1")]) == "qwen_image"


def test_the_idle_layers_are_of_the_last_block(whole: ModelFamily) -> None:
    assert whole.denoiser.config.num_layers == BLOCKS
    paths = {path for path, _ in whole.denoiser.named_modules()}
    assert {f"transformer_blocks.{BLOCKS - 1}.{layer}" for layer in IDLE} <= paths
