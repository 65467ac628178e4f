"""Predicted memory of a training step of bases at full size: counted without tensors, so neither a GPU nor weights are
needed.

python -m benchmarks.speed.memory_plan [--bases sdxl flux1-dev] [--resolutions 512 1024] [--batches 1] [--rank 16]
    [--name memory_plan]
python -m benchmarks.speed.memory_plan --table [--bases sdxl flux1-dev] [--rank 16] [--name memory_table]

--table: the settings that a training with default settings chooses for one image at once, on otherwise unused GPUs of 8
to 80 GB.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import CLIPTextModelWithProjection

from benchmarks.record import RESULTS, Row, markdown, write_record
from benchmarks.speed.full_size import CLIP_G, CLIP_L, KLEIN_4B, SD15_UNET, SD35_MEDIUM, SDXL_UNET, clip
from families.family import PromptFeatures, SizeConditioning
from families.flux1 import Flux1
from families.flux2 import DEV_PIPELINE, Flux2
from families.noise.flow_matching import FlowMatching
from families.precision.stored_blocks import Storage
from families.qwen_image import QwenImage
from families.sd3 import SD3
from families.sd15 import SD15
from families.sdxl import SDXL
from families.z_image import ZImage
from settings.command_line.parser import CommandParser
from settings.training import build_config
from trainer.adapters.targets import denoiser_targets
from trainer.execution.peak_memory import EmptyAdapter, step_cost, weights_on_device
from trainer.memory_plan import GB, USABLE, Choice, MemoryPlan, choices, first_that_fits

CARDS = (8, 12, 16, 24, 48, 80)
"""Memory of usual GPUs in GB."""


@dataclass(frozen=True)
class FullSize:
    """`reduction`: pixels per latent along one side. `text`: positions and width of the prompt; `pooled`: its width or
    0. `encoders`: those that stay on the device, because their tokens are trained. `side`: of the squares in the table.
    `pipeline`: diffusers' class, if the family depends on it."""

    family: type
    model: Callable[[], nn.Module]
    channels: int
    reduction: int
    text: tuple[int, int]
    pooled: int = 0
    encoders: tuple[Mapping[str, Any], ...] = ()
    side: int = 1024
    pipeline: str = ""


def flux2(**config: Any) -> Callable[[], nn.Module]:
    """FLUX.2's transformer; the defaults are dev's."""
    return lambda: Flux2Transformer2DModel(**config)


KLEIN: Mapping[str, Any] = {"guidance_embeds": False}
FULL_SIZE: Mapping[str, FullSize] = {
    "sd15": FullSize(SD15, lambda: UNet2DConditionModel(**SD15_UNET), 4, 8, (77, 768), 0, (CLIP_L,), 512),
    "sdxl": FullSize(SDXL, lambda: UNet2DConditionModel(**SDXL_UNET), 4, 8, (77, 2048), 1280, (CLIP_L, CLIP_G)),
    "sd35-medium": FullSize(
        SD3, lambda: SD3Transformer2DModel(**SD35_MEDIUM), 16, 8, (333, 4096), 2048, (CLIP_L, CLIP_G)
    ),
    "flux1-dev": FullSize(Flux1, lambda: FluxTransformer2DModel(guidance_embeds=True), 16, 8, (512, 4096), 768),
    "flux2-klein-4b": FullSize(
        Flux2, flux2(**KLEIN_4B), 128, 16, (512, 7680),
    ),
    "flux2-klein-9b": FullSize(
        Flux2, flux2(num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288, **KLEIN),
        128, 16, (512, 12288),
    ),
    "flux2-dev": FullSize(Flux2, flux2(), 128, 16, (512, 15360), pipeline=DEV_PIPELINE),
    "z-image": FullSize(ZImage, ZImageTransformer2DModel, 16, 8, (128, 2560)),
    "qwen-image": FullSize(QwenImage, QwenImageTransformer2DModel, 16, 8, (128, 3584)),
}  # fmt: skip


def main() -> None:
    """Print the table, and write it to benchmarks/results."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=list(FULL_SIZE), default=list(FULL_SIZE))
    parser.add_argument("--resolutions", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--name")
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(make_table(arguments.bases, arguments.rank, arguments.name or "memory_table")))
        return
    rows = [
        row(base, resolution, batch, arguments.rank, checkpointing=checkpointing)
        for base in arguments.bases
        for resolution in arguments.resolutions
        for batch in arguments.batches
        for checkpointing in (False, True)
    ]
    print(markdown(rows))
    write_record(arguments.name or "memory_plan", rows, {"rank": arguments.rank})


def make_table(bases: Sequence[str], rank: int, name: str, folder: Path = RESULTS) -> list[Row]:
    """Compute the rows of these bases, in a minute or more each. Rows of other bases are kept in the record."""
    path = folder / f"{name}.json"
    for base in bases:
        made = card_row(base, rank)
        before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        rows = {each["base"]: each for each in (*before, made)}
        table = [rows[each] for each in FULL_SIZE if each in rows]
        write_record(name, table, {"rank": rank}, folder)
    return table


def row(name: str, resolution: int, batch: int, rank: int, *, checkpointing: bool) -> dict[str, Any]:
    """One line of the predictions: a LoRA on the attention layers, bf16 weights."""
    step = predict(name, resolution, rank, Choice(batch, checkpointing)).step
    return {
        "base": name,
        "resolution": resolution,
        "batch": batch,
        "gradient checkpointing": "yes" if checkpointing else "no",
        "weights, GB": round(step.weights / GB, 1),
        "peak, GB": round(step.peak / GB, 1),
        "fits from": next(_cards_that_hold(step.peak), "more than 80 GB"),
    }


def card_row(name: str, rank: int) -> dict[str, str]:
    """One line of the table: how the base is trained on each card."""
    config, side = build_config({"rank": rank}), FULL_SIZE[name].side

    @cache
    def known(choice: Choice) -> MemoryPlan:
        return predict(name, side, rank, choice)

    @cache
    def weigh(storage: Storage) -> int:
        return weights_on_device(empty_denoiser(name), storage)

    cells = {"base": name, "resolution": str(side)}
    options = list(choices(config.adapters, config.speed, 1))
    for card in CARDS:
        found = first_that_fits(options, known, weigh, card * GB)
        cells[f"{card} GB"] = _settings_of(found.choice) if found.fits(card * GB) else "no"
    return cells


def empty_denoiser(name: str) -> nn.Module:
    """The denoiser in bf16, on the meta device."""
    with init_empty_weights():
        denoiser = FULL_SIZE[name].model()
    return nn.Module.to(denoiser, torch.bfloat16)


def bare_family(name: str) -> Any:
    """The family with an empty denoiser and no other components."""
    base = FULL_SIZE[name]
    family: Any = object.__new__(base.family)
    family.denoiser = empty_denoiser(name)
    family._parts = SimpleNamespace(index={"_class_name": base.pipeline})
    family.noise_process = FlowMatching()
    return family


def predict(name: str, resolution: int, rank: int, choice: Choice) -> MemoryPlan:
    """Predict a step of a LoRA on the attention layers."""
    base, family = FULL_SIZE[name], bare_family(name)
    paths = denoiser_targets(family, build_config({"rank": rank}).adapters)

    def run(denoiser: nn.Module) -> torch.Tensor:
        family.denoiser = denoiser
        batch, side = choice.images, resolution // base.reduction
        noised = torch.zeros(batch, base.channels, side, side)
        pooled = torch.zeros(batch, base.pooled, dtype=torch.bfloat16) if base.pooled else None
        prompts = PromptFeatures(torch.zeros(batch, *base.text, dtype=torch.bfloat16), pooled)
        sizes = [SizeConditioning((resolution, resolution), (0, 0), (resolution, resolution))] * batch
        prediction: torch.Tensor = family.denoise(noised, torch.full((batch,), 500.0), prompts, sizes)
        return prediction

    adapter = EmptyAdapter("lora", rank, rank, paths)
    step = step_cost(family.denoiser, adapter, run, checkpointing=choice.checkpointing, storage=choice.storage)
    return MemoryPlan(step, sum(_encoder_bytes(encoder) for encoder in base.encoders), choice)


def _encoder_bytes(sizes: Mapping[str, Any]) -> int:
    """Bytes of a CLIP text encoder in bf16."""
    with init_empty_weights():
        encoder = CLIPTextModelWithProjection(clip(sizes))
    return 2 * sum(parameter.numel() for parameter in encoder.parameters())


def _settings_of(choice: Choice) -> str:
    """The chosen settings as text, such as `int8, checkpointing`."""
    said: list[str] = [choice.storage.precision]
    said += ["offload"] if choice.storage.offloaded else []
    said += ["checkpointing"] if choice.checkpointing else []
    return ", ".join(said)


def _cards_that_hold(peak: int) -> Iterator[str]:
    return (f"{card} GB" for card in CARDS if peak <= USABLE * card * GB)


if __name__ == "__main__":
    main()
