"""How an embedded base is sampled before and after a training, and the bars for what is learned on each."""

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
"""Of bases other than mini-sdxl, which is sampled as diffusers' script's results are."""
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
"""What the defaults must reach on the reporting seeds, at least (copies: at most): by base, for mean and worst of the
concepts. Set before any training on them."""


def bar_rows(base: str) -> list[Row]:
    """Return the bars as rows of the summary."""
    empty: Row = dict.fromkeys(MEASURES, "")
    return [{"way": "bar", "of the concepts": which, **empty, **bars} for which, bars in BARS[base].items()]


def draw_untrained(base: str) -> Draw:
    """Return a function that samples with the base alone."""
    if base != EMBEDDED_BASE:
        return sampler_draw(_sampler(base))
    return pipeline_draw(embedded_pipeline())


def draw_trained(base: str, folder: Path) -> Draw:
    """Return a function that samples with what a training wrote into `folder`."""
    if base == EMBEDDED_BASE:
        return draw_of(folder)
    sampler = _sampler(base)
    sampler.load(Artifact.read(folder / "weights.safetensors"))
    return sampler_draw(sampler)


def _sampler(base: str) -> Sampler:
    return Sampler(load_base_model(base, torch.float32).to(torch.device("cpu")))


def sampler_draw(sampler: Sampler, steps: int = INFERENCE_STEPS, guidance: float = GUIDANCE) -> Draw:
    """Return a function that samples with what is loaded at that moment, each prompt with the next seed."""

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        requests = [
            SampleRequest(prompt=prompt, seed=seed, num_inference_steps=steps, guidance_scale=guidance)
            for seed, prompt in enumerate(prompts)
        ]
        return [picture for (picture,) in sampler.generate_several(requests)]

    return draw
