"""Sampling of an embedded base before and after a training, and the minimum measures for each base."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from artifact.artifact import Artifact
from benchmarks.concepts.measures import MEASURES
from benchmarks.learning.diffusers_results import Draw, draw_of, embedded_pipeline, pipeline_draw
from benchmarks.record import Row
from families.loading.sources import EMBEDDED_BASE
from families.registry import load_base_model
from sampler.sampler import Sampler, SampleRequest

INFERENCE_STEPS, GUIDANCE = 20, 3.0
"""Settings for bases other than mini-sdxl, which is sampled like the results of diffusers' script."""
BARS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    EMBEDDED_BASE: {
        "mean": {
            "likeness": 0.9, "likeness_elsewhere": 0.75, "gain": 0.5, "grounds": 0.85, "kept": 0.9, "copies": 0.0,
        },
        "worst": {"likeness": 0.75},
    },
    "mini-flow": {
        "mean": {
            "likeness": 0.85, "likeness_elsewhere": 0.65, "gain": 0.4, "grounds": 0.8, "kept": 0.85, "copies": 0.0,
        },
        "worst": {"likeness": 0.65},
    },
}  # fmt: skip
"""Minimum measures of the defaults on the reporting seeds (copies: maximum), by base, for the mean and the worst of the
concepts. They were set before any training on them."""


def bar_rows(base: str) -> list[Row]:
    """Return the bars as rows of the summary."""
    empty: Row = dict.fromkeys(MEASURES, "")
    return [{"way": "bar", "of the concepts": which, **empty, **bars} for which, bars in BARS[base].items()]


def draw_untrained(base: str) -> Draw:
    """Return a function that samples with the base model only."""
    if base != EMBEDDED_BASE:
        return sampler_draw(_sampler(base))
    return pipeline_draw(embedded_pipeline())


def draw_trained(base: str, folder: Path) -> Draw:
    """Return a function that samples with the result of a training in `folder`."""
    if base == EMBEDDED_BASE:
        return draw_of(folder)
    sampler = _sampler(base)
    sampler.load(Artifact.read(folder / "weights.safetensors"))
    return sampler_draw(sampler)


def _sampler(base: str) -> Sampler:
    return Sampler(load_base_model(base, torch.float32).to(torch.device("cpu")))


def sampler_draw(sampler: Sampler, steps: int = INFERENCE_STEPS, guidance: float = GUIDANCE) -> Draw:
    """Return a function that samples with the sampler's current LoRAs, each prompt with the next seed."""

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        requests = [
            SampleRequest(prompt=prompt, seed=seed, num_inference_steps=steps, guidance_scale=guidance)
            for seed, prompt in enumerate(prompts)
        ]
        return [picture for (picture,) in sampler.generate_several(requests)]

    return draw
