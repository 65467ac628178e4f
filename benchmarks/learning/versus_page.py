"""The page that benchmarks/learning/versus_diffusers.py writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Row, machine, markdown

PAGE = """# Against diffusers' training script

Written by `python -m benchmarks.learning.versus_diffusers`: the example robot on the embedded base, through diffusers'
`train_dreambooth_lora_sdxl_advanced.py` (pivotal tuning) and through this trainer. Results are opened and drawn with
plain diffusers on both sides. Machine: {machine}.

Alike for all: base, pictures, captions, {resolution} pixels, fp32, batch {batch}, rank {rank}, {learning_steps} steps,
two new tokens in each text encoder, learning rates {learning_rate:g} (LoRA) and {token_learning_rate:g} (tokens),
gradients clipped to 1 (theirs together, ours for LoRA and tokens apart).

- **diffusers' script**: `--train_text_encoder_ti` to the end, `--snr_gamma 5`, constant rate; tokens start at random,
  LoRA on attention; `--cache_latents`, which makes it faster, and pairs the pictures with captions of other pictures:
  latents are cached in one shuffled order and read in others.
- **diffusers' script, its README's options**: without `--cache_latents` and with `--gradient_checkpointing`, as in the
  command of its README; else the same.
- **ours, the same job**: the same layers, weighting and schedule, else the defaults: tokens start as the class word,
  and one caption in twenty is dropped.
- **ours, configs/demo.yaml**: what this base's users are given: LoRA on feed-forward layers and convolutions too,
  weighting by 1 / √SNR, prior matching, token norms kept, warm-up and cosine. It does more work a step than the other
  two.

What to keep in mind: `configs/demo.yaml` was tuned on this example and this evaluator, and diffusers' script was not.
The script has a prior preservation of its own, with class images, which was not switched on here; prior matching is
what `configs/demo.yaml` has in its place. Three seeds: a difference below about twice the spread of a column says
little.

## What is learned

- concept: mean cosine of 8 samples and the training pictures, by the training pictures' own to each other (1 is full).
- prompt: share of samples that stand on the background that the prompt names (8 backgrounds).
- prior: mean cosine of pictures of 16 unrelated prompts after and before training, same seeds (1: unchanged).
- processor s: of the whole job, on one core.

{learning}

Spread is the standard deviation over the seeds.

## Time and memory of the same job

Medians of {pairs} paired runs of {short} and {long} steps, in turn, with nothing else running; a step is their
difference. The whole process counts, from the start of Python to its end; ours also verifies its file and writes a
report.

{speed}
"""


def write_page(path: Path, parts: Mapping[str, Sequence[Row]], settings: Mapping[str, Any]) -> None:
    """`parts`: the tables `learning` and `speed`."""
    here = machine()
    text = PAGE.format(
        **{name: value for name, value in settings.items() if f"{{{name}" in PAGE},
        short=settings["steps"][0],
        long=settings["steps"][1],
        machine=f"{here['processor']}, {here['threads']} of {here['cores']} cores for each",
        learning=markdown(parts["learning"]),
        speed=markdown(parts["speed"]),
    )
    path.write_text(text, encoding="utf-8")
