"""Predicted memory of a training step of bases at full size: counted without tensors, so no GPU and no weights.

python -m benchmarks.speed.memory_plan [--bases sdxl flux1-dev] [--resolutions 512 1024] [--batches 1] [--rank 16]
    [--name memory_plan]
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, UNet2DConditionModel
from torch import nn

from benchmarks.record import markdown, write_record
from benchmarks.speed.full_size import SD15_UNET, SDXL_UNET
from families.family import PromptFeatures, SizeConditioning
from families.flux1 import Flux1
from families.flux2 import Flux2
from families.noise.flow_matching import FlowMatching
from families.sd15 import SD15
from families.sdxl import SDXL
from settings.command_line.parser import CommandParser
from settings.training import build_config
from trainer.adapters.targets import denoiser_targets
from trainer.execution.peak_memory import EmptyAdapter, step_memory
from trainer.memory_plan import GB, USABLE

CARDS = (8, 12, 16, 24, 48, 80)
"""GB of usual GPUs."""


@dataclass(frozen=True)
class FullSize:
    """`reduction`: pixels of a latent's side. `text`: positions and width of the prompt; `pooled`: its width or 0."""

    family: type
    model: Callable[[], nn.Module]
    channels: int
    reduction: int
    text: tuple[int, int]
    pooled: int = 0


def flux2(**config: Any) -> Callable[[], nn.Module]:
    """FLUX.2's transformer; the defaults are dev's."""
    return lambda: Flux2Transformer2DModel(**config)


KLEIN: Mapping[str, Any] = {"guidance_embeds": False}
FULL_SIZE: Mapping[str, FullSize] = {
    "sd15": FullSize(SD15, lambda: UNet2DConditionModel(**SD15_UNET), 4, 8, (77, 768)),
    "sdxl": FullSize(SDXL, lambda: UNet2DConditionModel(**SDXL_UNET), 4, 8, (77, 2048), 1280),
    "flux1-dev": FullSize(Flux1, lambda: FluxTransformer2DModel(guidance_embeds=True), 16, 8, (512, 4096), 768),
    "flux2-klein-4b": FullSize(
        Flux2, flux2(num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, **KLEIN),
        128, 16, (512, 7680),
    ),
    "flux2-klein-9b": FullSize(
        Flux2, flux2(num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288, **KLEIN),
        128, 16, (512, 12288),
    ),
    "flux2-dev": FullSize(Flux2, flux2(), 128, 16, (512, 15360)),
}  # fmt: skip


def main() -> None:
    """Print the table, and write it to benchmarks/results."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=list(FULL_SIZE), default=list(FULL_SIZE))
    parser.add_argument("--resolutions", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--name", default="memory_plan")
    arguments = parser.parse_args()
    rows = [
        row(base, resolution, batch, arguments.rank, checkpointing=checkpointing)
        for base in arguments.bases
        for resolution in arguments.resolutions
        for batch in arguments.batches
        for checkpointing in (False, True)
    ]
    print(markdown(rows))
    write_record(arguments.name, rows, {"rank": arguments.rank})


def row(name: str, resolution: int, batch: int, rank: int, *, checkpointing: bool) -> dict[str, Any]:
    """One line of the table: a LoRA on the attention layers, bf16 weights."""
    base = FULL_SIZE[name]
    family: Any = object.__new__(base.family)  # the denoiser alone is looked at
    with init_empty_weights():
        family.denoiser = base.model()
    nn.Module.to(family.denoiser, torch.bfloat16)
    family.noise_process = FlowMatching()
    config = build_config({"rank": rank})
    paths = denoiser_targets(family, config.adapters)

    def run(denoiser: nn.Module) -> torch.Tensor:
        family.denoiser = denoiser
        side = resolution // base.reduction
        noised = torch.zeros(batch, base.channels, side, side)
        pooled = torch.zeros(batch, base.pooled, dtype=torch.bfloat16) if base.pooled else None
        prompts = PromptFeatures(torch.zeros(batch, *base.text, dtype=torch.bfloat16), pooled)
        sizes = [SizeConditioning((resolution, resolution), (0, 0), (resolution, resolution))] * batch
        prediction: torch.Tensor = family.denoise(noised, torch.full((batch,), 500.0), prompts, sizes)
        return prediction

    step = step_memory(family.denoiser, EmptyAdapter("lora", rank, rank, paths), run, checkpointing=checkpointing)
    return {
        "base": name,
        "resolution": resolution,
        "batch": batch,
        "gradient checkpointing": "yes" if checkpointing else "no",
        "weights, GB": round(step.weights / GB, 1),
        "peak, GB": round(step.peak / GB, 1),
        "fits from": next(_cards_that_hold(step.peak), "more than 80 GB"),
    }


def _cards_that_hold(peak: int) -> Iterator[str]:
    return (f"{card} GB" for card in CARDS if peak <= USABLE * card * GB)


if __name__ == "__main__":
    main()
