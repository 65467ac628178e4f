"""Writes the embedded base's model card from the measurements in evaluation.json and the models."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from torch import nn
from transformers import CLIPVisionModelWithProjection

from tools.mini_base import cache_latents, evaluate_vae
from tools.mini_base.evaluate_vae import Exactness
from tools.mini_base.scenes import ATTRIBUTES
from tools.mini_base.training import (
    train_decoder,
    train_image_tower,
    train_text_encoders,
    train_unet,
    train_unet_further,
    train_vae,
)

AIMS = {"background": 0.98, "colour": 0.95, "shape": 0.85, "place": 0.90}

TEMPLATE = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# mini-sdxl

A real text-to-image model in exactly SDXL's layout, small enough to live in a git repository and to train LoRAs on with
a laptop's CPU. It draws things and simple creatures in {colours} colours, in places and on patterned backgrounds,
64 × 64 pixels. It exists so that a trainer of SDXL LoRAs can be tried and tested from end to end, learning included.

![Samples for held-out captions]({grid})

Above: samples for captions whose combination of shape, colour, place and background was kept from all training.

```python
import torch
from diffusers import StableDiffusionXLPipeline

pipe = StableDiffusionXLPipeline.from_pretrained("assets/mini-sdxl", dtype=torch.float32)
pipe("a photo of a large red star on the left on a blue background", width=64, height=64).images[0].save("star.png")
```

## How well it follows captions

{captions} held-out captions, {steps} steps, guidance {guidance}; judged by the evaluator (below), which picks among all
values of one attribute. `python -m tools.mini_base.evaluate` prints the tables.

{table}

## Parts

| part | parameters | trained for |
|---|---|---|
{parts}

The image tower (`image_encoder/`) was trained into the second text encoder's space and is the embedded evaluator. It is
no part of the pipeline.

## How it was made

    python -m tools.mini_base.build && python -m tools.mini_base.evaluate

from procedurally drawn pictures ({shapes} shapes, {colours} colour words, {backgrounds} backgrounds, four patterns,
parts, outlines, three sizes, five places), with fixed seeds, on two CPU cores. The VAE also learned from random
compositions, textures and the photographs of scikit-image, so that it restores pictures that it never saw (PSNR):

{restored}

The weights here came from a build that was changed on its way: the VAE's training pictures changed at steps 1,600 and
2,100, and the image tower was trained on after 4,000 steps. A rebuild gives another model of the same kind; the tables
say how good it is.

## Limits

It knows about a hundred words; every other word is spelled in pieces that mean nothing to it. Small parts are soft, and
patterns uneven. Two things in one picture often mix their colours. Where a table is below an aim, the aim is missed:
colours above all. The evaluator itself reads the colours of real drawings wrongly where a pattern has two of them.
"""


@dataclass(frozen=True)
class Measured:
    """`captions`: shares of correct attributes by model, for `count` captions. `restored`: exactness of the VAE by kind
    of image. `steps`, `guidance`: of the samples."""

    captions: Mapping[str, Mapping[str, float]]
    restored: Mapping[str, Exactness]
    count: int
    steps: int
    guidance: float


def write_card(assets: Path, measured: Measured) -> None:
    """Write README.md and evaluation.json into the model's folder."""
    text = TEMPLATE.format(
        grid="grid.png",
        captions=measured.count,
        steps=measured.steps,
        guidance=measured.guidance,
        table=markdown(measured.captions),
        restored=evaluate_vae.markdown(measured.restored),
        parts=parts(assets),
        shapes=len(ATTRIBUTES["shape"]),
        colours=len(ATTRIBUTES["colour"]),
        backgrounds=len(ATTRIBUTES["background"]),
    )
    (assets / "README.md").write_text(text, encoding="utf-8")
    figures = {
        "captions": measured.captions,
        "restored": {kind: asdict(row) for kind, row in measured.restored.items()},
    }
    (assets / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def markdown(table: Mapping[str, Mapping[str, float]], aims: Mapping[str, float] = AIMS) -> str:
    """Shares as a table, with the aims."""
    lines = ["| | " + " | ".join(ATTRIBUTES) + " |", "|---|" + "---|" * len(ATTRIBUTES)]
    for name, row in {**table, "aim for the samples": aims}.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[attribute]:.1%}" for attribute in ATTRIBUTES) + " |")
    return "\n".join(lines)


def parts(assets: Path) -> str:
    """A row for each part."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(assets)
    image_tower = CLIPVisionModelWithProjection.from_pretrained(assets / "image_encoder")
    rows = (
        ("VAE, 64 × 64 × 3 to 16 × 16 × 4", pipeline.vae, _vae_training()),
        ("text encoder (`clip_l`)", pipeline.text_encoder, f"{train_text_encoders.STEPS:,} steps of 96"),
        ("text encoder 2 (`clip_g`)", pipeline.text_encoder_2, "the same"),
        ("UNet, three levels", pipeline.unet, _unet_training()),
        (
            "image tower",
            image_tower,
            f"{train_image_tower.STEPS:,} steps of {train_image_tower.BATCH_SIZE}",
        ),
    )
    return part_rows(rows)


def part_rows(rows: Iterable[tuple[str, nn.Module, str]]) -> str:
    """A row for each part: its name, its number of parameters, and the length of its training."""
    return "\n".join(
        f"| {name} | {sum(weight.numel() for weight in module.parameters()) / 1e6:.2f} M | {trained} |"
        for name, module, trained in rows
    )


def _vae_training() -> str:
    return f"{train_vae.STEPS:,} steps of {train_vae.BATCH_SIZE}, then {train_decoder.STEPS:,} of the decoder"


def _unet_training() -> str:
    return (
        f"{train_unet.STEPS:,} steps of {train_unet.BATCH_SIZE} with AdamW, then {train_unet_further.STEPS:,} with "
        f"Muon, on {cache_latents.PICTURES + cache_latents.FIGURES:,} pictures"
    )
