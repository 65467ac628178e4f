"""Writes mini-flow's model card from the measurements in evaluation.json and the models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers import ZImagePipeline

from tools.mini_base.model_card import markdown, part_rows
from tools.mini_flow import captions, train

AIMS = {"background": 0.95, "colour": 0.75, "shape": 0.60, "place": 0.90}

TEMPLATE = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# mini-flow

A real text-to-image model in Z-Image's layout: a transformer trained by flow matching, whose prompts a small Qwen3
reads. It is mini-sdxl's counterpart, of the same world, 64 × 64 pixels, and small enough to live in a git repository
and to train LoRAs on with a laptop's CPU: so that what is trained on a base of today can be tried and tested from end
to end, learning included.

![Samples for held-out captions]({grid})

Above: samples for captions whose combination of shape, colour, place and background was kept from all training.

```python
import torch
from diffusers import ZImagePipeline

pipe = ZImagePipeline.from_pretrained("assets/mini-flow", dtype=torch.float32)
prompt = "a photo of a large red star on the left on a blue background"
pipe(prompt, width=64, height=64, num_inference_steps={steps}, guidance_scale={guidance}).images[0].save("star.png")
```

## How well it follows captions

{captions} held-out captions, {steps} steps, guidance {guidance}; judged by mini-sdxl's evaluator, which picks among all
values of one attribute. mini-sdxl's card has what the evaluator itself reads from real drawings.
`python -m tools.mini_flow.evaluate` prints the table.

{table}

## Parts

| part | parameters | trained for |
|---|---|---|
{parts}

Qwen3's next word, which its last layer predicts, was learned beside. The transformer reads the states before that
layer, as Z-Image's does.

## How it was made

    python -m tools.mini_base.build && python -m tools.mini_flow.build && python -m tools.mini_flow.evaluate

from the pictures that mini-sdxl's UNet learned from, without crops of larger ones: scenes, each with {variants}
captions, and figures of any kind, whose captions name the background alone. In {foreign:.0%} of the scenes' captions a
word that the world has not stands for the shape, an ordinary one or a few letters, so that such a word does not disturb
the rest of the prompt.

Its scheduler shifts timesteps by the number of image tokens. The static shift in its configuration is that of Z-Image's
base model and not in use: it distinguishes a base from Turbo.

## Limits

It knows about a hundred words; every other word is spelled in pieces that mean nothing to it. Two things in one picture
often mix their colours.
"""


@dataclass(frozen=True)
class Measured:
    """`captions`: shares of correct attributes by model, for `count` captions. `steps`, `guidance`: of the samples."""

    captions: Mapping[str, Mapping[str, float]]
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
        table=markdown(measured.captions, AIMS),
        parts=parts(assets),
        variants=captions.VARIANTS,
        foreign=captions.FOREIGN_NOUNS,
    )
    (assets / "README.md").write_text(text, encoding="utf-8")
    figures = {"captions": measured.captions}
    (assets / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def parts(assets: Path) -> str:
    """A row for each part."""
    pipeline = ZImagePipeline.from_pretrained(assets)
    trained = f"{train.STEPS:,} steps of {train.BATCH_SIZE}"
    return part_rows(
        (
            ("VAE, 64 × 64 × 3 to 16 × 16 × 4", pipeline.vae, "mini-sdxl's"),
            ("text encoder (Qwen3)", pipeline.text_encoder, f"{trained}, with the transformer"),
            ("transformer", pipeline.transformer, trained),
        )
    )
