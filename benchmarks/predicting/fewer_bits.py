"""Changes of images if the denoiser computes in lower precision: bf16, and products in fp8 (`go_fast`).

python -m benchmarks.predicting.fewer_bits [--bases mini-sdxl mini-flow] [--prompts 8] [--outputs 2]

The same prompts, seeds and LoRA, sampled with the base's own number of steps: in fp32, in bf16, and both with products
in fp8. fp8 is only fast on a GPU; a CPU computes the same products (torch's `scaled_mm`) with another order of
summation. Images in fp32 with another seed show the usual difference between two images of a prompt.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from artifact.artifact import Artifact
from benchmarks.predicting.lora_swap import write_lora
from benchmarks.record import Row, markdown, write_record
from families.registry import load_base_model
from sampler.local_base import place_on
from sampler.request import filled
from sampler.sampler import Sampler, SampleRequest
from settings.command_line.parser import CommandParser
from tools.mini_base.scenes import unrelated_prompts

PRECISIONS: Mapping[str, tuple[torch.dtype, bool]] = {
    "fp32": (torch.float32, False),
    "fp32, products in fp8": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "bf16, products in fp8": (torch.bfloat16, True),
}
"""The dtype of the base, and whether its products are in fp8."""
EXACT, OTHER_SEED = "fp32", "fp32, another seed"
SEED = 7
LEVELS = 255


def main() -> None:
    """Measure, print the table, write benchmarks/results/fewer_bits.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=["mini-sdxl", "mini-flow"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--outputs", type=int, default=2, help="images for each prompt")
    parser.add_argument("--steps", type=int, help="default: the base's own")
    given = parser.parse_args()
    rows = [row for base in given.bases for row in measure(base, given.prompts, given.outputs, given.steps)]
    print(markdown(rows))
    print(write_record("fewer_bits", rows, vars(given)))


def measure(base_model: str, prompts: int, outputs: int, steps: int | None) -> list[Row]:
    """Return a row for each precision: the difference of its images from those in fp32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures = dict[str, np.ndarray]()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        for name, (dtype, fast) in PRECISIONS.items():
            family = load_base_model(base_model, dtype)
            sampler = Sampler(place_on(family, device, go_fast=fast))
            if not file.exists():
                write_lora(sampler.family, file)
            sampler.load(Artifact.read(file))
            pictures[name] = _drawn(sampler, prompts, outputs, steps, SEED)
            if name == EXACT:
                pictures[OTHER_SEED] = _drawn(sampler, prompts, outputs, steps, SEED + outputs)
    return [
        {"base": base_model, "pictures": len(drawn), "computed in": name, **difference(drawn, pictures[EXACT])}
        for name, drawn in pictures.items()
        if name != EXACT
    ]


def _drawn(sampler: Sampler, prompts: int, outputs: int, steps: int | None, seed: int) -> np.ndarray:
    """The images: (N, height, width, 3)."""
    request = SampleRequest("", num_outputs=outputs, seed=seed)
    if steps is None:
        request = filled(replace(request, left_open=("num_inference_steps", "guidance_scale")), sampler.family)
    else:
        request = replace(request, num_inference_steps=steps)
    requests = [replace(request, prompt=f"{prompt}, TOK") for prompt in unrelated_prompts(prompts)]
    return np.stack([np.asarray(image, dtype=float) for own in sampler.generate_several(requests) for image in own])


def difference(ours: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Mean absolute difference in levels of 255 (mean, and of the worst image), and PSNR in dB, 20·log10(255 / RMS),
    (mean over images)."""
    gaps = (ours - exact).reshape(len(ours), -1)
    means, roots = np.abs(gaps).mean(1), np.sqrt((gaps**2).mean(1))
    signal_to_noise = [20 * math.log10(LEVELS / root) if root else math.inf for root in roots]
    return {
        "mean difference, of 255": round(float(means.mean()), 2),
        "of the worst picture": round(float(means.max()), 2),
        "PSNR, dB": round(float(np.mean(signal_to_noise)), 1),
    }


if __name__ == "__main__":
    main()
