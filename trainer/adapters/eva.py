"""EVA: initialises the down projections of LoRAs with the directions in which the layers' inputs vary most.

Paischer et al. 2024, arXiv 2410.07170, with the same rank for every layer. The inputs are those for the training
images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from families.family import ModelFamily
from families.noise.noise_process import Draw
from families.parts.placeholder_tokens import expand_triggers
from trainer.adapters.adapter import Adapter
from trainer.adapters.kind import ADAPTER
from trainer.data.latent_cache import CachedExample
from trainer.trainables.part import Parts

PICTURES = 16
DRAWS = 4
"""Number of timesteps for each image, evenly spaced."""


def start_by_inputs(
    family: ModelFamily,
    parts: Parts,
    examples: Sequence[CachedExample],
    triggers: Mapping[str, Sequence[str]],
    generator: torch.Generator,
    accelerator: Accelerator,
) -> str:
    """Initialise the new LoRAs among `parts` from the inputs of their layers for `examples`. Returns the messages.
    Every process computes them itself; the values of the main process are sent to the others later.
    """
    placed = [part for name in ("lora", "text_encoders") if name in parts and isinstance(part := parts[name], Adapter)]
    modules = [module for part in placed for module in part.lora_modules()]
    with accelerator.autocast():
        share = start_modules(modules, lambda: look_at(family, examples, triggers, generator))
    return f"lora_init: eva: the initial directions contain {share:.1%} of the energy of the layers' inputs"


@torch.no_grad()
def start_modules(modules: Sequence[Any], look: Callable[[], None]) -> float:
    """Set the down projections of `modules`, new LoRAs on linear layers, to the r largest eigenvectors of their inputs'
    second moments while `look` runs. Returns the share of the inputs' energy that they contain, 0 to 1. The up
    projections stay zero, so the model's output does not change. Temporarily needs in² numbers for every layer. A layer
    without inputs keeps its values.
    """
    with _second_moments(modules) as moments:
        look()
    kept = whole = 0.0
    for module in (module for module in modules if id(module) in moments):
        down = module.lora_A[ADAPTER].weight
        values, vectors = torch.linalg.eigh(moments[id(module)].double())
        count = min(len(down), len(values))
        down[:count] = vectors.flip(1)[:, :count].T.to(down)
        kept += float(values.flip(0)[:count].sum())
        whole += float(values.sum())
    return kept / whole if whole > 0 else 1.0


@torch.no_grad()
def look_at(
    family: ModelFamily,
    examples: Sequence[CachedExample],
    triggers: Mapping[str, Sequence[str]],
    generator: torch.Generator,
) -> None:
    """Run the base on some of the training images with their captions, noised to timesteps of the whole range."""
    process = family.noise_process
    fractions = (torch.arange(DRAWS) + 0.5) / DRAWS
    for example in examples[:: max(1, len(examples) // PICTURES)][:PICTURES]:
        view = example.views[0].load()
        shape = family.latent_shape(view.moments[None].shape)
        noises = torch.randn((DRAWS + 1, *shape[1:]), generator=generator).to(view.moments.device)
        latents = family.latents(view.moments[None], noises[:1]).expand(DRAWS, -1, -1, -1)
        draw = Draw(process.timesteps_at(fractions, latents.shape).to(latents.device), noises[1:])
        prompts = family.encode_prompts([expand_triggers(example.caption, triggers)] * DRAWS)
        family.denoise(process.corrupt(latents, draw), draw.timesteps, prompts, [view.size] * DRAWS)


@contextmanager
def _second_moments(modules: Sequence[Any]) -> Iterator[dict[int, Tensor]]:
    """Σ x xᵀ (in, in), fp32, of the inputs of each module inside this context, by the module's id."""
    moments: dict[int, Tensor] = {}

    def add(module: Any, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).float()
        moments[id(module)] = moments.get(id(module), 0) + rows.T @ rows

    handles = [module.register_forward_pre_hook(add) for module in modules]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
