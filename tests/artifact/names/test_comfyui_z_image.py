"""Tests that ComfyUI can place every layer of Z-Image that a training writes, at full size.

By ComfyUI's rules, `transformer.X` changes all rows or some rows of a tensor with a name of Lumina 2's code.
"""

from collections.abc import Iterator
from typing import cast

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from artifact.names.kohya import file_names
from families.family import ModelFamily
from families.z_image import ZImage
from settings.sections.adapter import LoraTargets
from tests.artifact.names.comfyui_flux import Target
from tests.artifact.names.test_comfyui_names import full_size, written
from tests.families.z_image.z_image_file import z_image_file_tensors
from trainer.adapters.targets import layer_paths

LAYERS, REFINERS, WIDTH = 30, 2, 3840


def comfyui_z_image() -> Iterator[tuple[str, Target]]:
    """Yield names in a LoRA file, and where ComfyUI places them."""
    for blocks, count in (("layers", LAYERS), ("noise_refiner", REFINERS), ("context_refiner", REFINERS)):
        for number in range(count):
            block = f"{blocks}.{number}"
            for place, part in enumerate(("to_q", "to_k", "to_v")):
                yield f"{block}.attention.{part}", Target(f"{block}.attention.qkv", (place * WIDTH, WIDTH))
            yield f"{block}.attention.to_out.0", Target(f"{block}.attention.out", None)
            for layer in ("w1", "w2", "w3"):
                yield f"{block}.feed_forward.{layer}", Target(f"{block}.feed_forward.{layer}", None)
            if blocks != "context_refiner":  # it does not read the timestep
                yield f"{block}.adaLN_modulation.0", Target(f"{block}.adaLN_modulation.0", None)
    for same in ("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"):
        yield same, Target(same, None)
    yield "all_x_embedder.2-1", Target("x_embedder", None)
    for layer in ("linear", "adaLN_modulation.1"):
        yield f"all_final_layer.2-1.{layer}", Target(f"final_layer.{layer}", None)


TABLE = {f"transformer.{path}": target for path, target in comfyui_z_image()}


@pytest.fixture(scope="module")
def family() -> ModelFamily:
    return full_size(ZImage, ZImageTransformer2DModel)


@pytest.mark.parametrize(("targets", "count"), [("attention", 4 * 34), ("attention+feed-forward", 7 * 34)])
def test_every_layer_has_its_place(targets: str, count: int, family: ModelFamily) -> None:
    shapes = {name.rpartition(".")[0]: tuple(each.shape) for name, each in
              z_image_file_tensors(family.denoiser).items() if name.endswith(".weight")}  # fmt: skip
    layers = written(family, cast(LoraTargets, targets))
    assert len(layers) == count
    for name, (rows, columns) in layers.items():
        tensor, part = TABLE[name]
        height, depth = shapes[tensor]
        assert columns == depth and rows == (height if part is None else part[1]), name
        assert part is None or part[0] + part[1] <= height


def test_all_linear_layers_have_their_place(family: ModelFamily) -> None:
    """`lora_target_regex` can select any layer."""
    names = file_names(family)
    assert {names[path] for path in layer_paths(family.denoiser)} == TABLE.keys()
    linear = [path for path, each in family.denoiser.named_modules() if isinstance(each, torch.nn.Linear)]
    assert {f"transformer.{path}" for path in linear} == TABLE.keys()
