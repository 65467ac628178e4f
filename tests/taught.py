"""Helpers of tests of learning. They train on images, and compare samples with them before and after training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from artifact.artifact import Artifact
from evaluation.encoders import ClipEncoder
from evaluation.similarity import mean_self_similarity, mean_similarity
from families.loading.sources import EMBEDDED_BASE
from job.output_folder import OutputFolder
from job.run import run
from sampler.generation import Generation
from sampler.sampler import SampleRequest
from settings.record import read_settings_file
from settings.training import build_config
from tests.conftest import PROJECT
from tools.before_after import GUIDANCE_SCALE, INFERENCE_STEPS

WITHOUT_PRIOR = {"prior_matching_weight": 0.0}
"""Halves the time of a step. The test of the demo includes the preservation of other prompts."""


def train(data: Path, output: Path, changes: Mapping[str, Any]) -> Artifact:
    """Trains with the demo's settings without its concept, and with `changes`. Returns the artifact."""
    demo = {
        name: value
        for name, value in read_settings_file(PROJECT / "configs" / "demo.yaml").items()
        if name not in ("trigger_word", "class_word", "validation_prompt")
    }
    folder = OutputFolder.create(output)
    for _ in run(build_config({**demo, "num_validation_images": 0, **changes}), [data], folder):
        pass
    return Artifact.read(folder.weights)


@dataclass(frozen=True)
class Taught:
    """Embeddings for one trigger: of its images, and of samples of its prompts without and with the artifact."""

    photos: Tensor
    before: Tensor
    after: Tensor

    @property
    def itself(self) -> float:
        """Similarity of the images to each other, the upper bound for samples."""
        return mean_self_similarity(self.photos)

    def likeness(self, photos: Tensor | None = None) -> float:
        """Similarity of the samples to the trigger's own images, or to others."""
        return mean_similarity(self.after, self.photos if photos is None else photos)

    @property
    def gain(self) -> float:
        return self.likeness() - mean_similarity(self.before, self.photos)


def look(
    artifact: Artifact, photos: Mapping[str, Path], prompts: Mapping[str, Sequence[tuple[str, int]]]
) -> dict[str, Taught]:
    """Generates and embeds samples. `photos`: the folder of each trigger's images. `prompts`: its prompts, with the
    number of samples of each."""
    encoder, sampler = ClipEncoder(), Generation().prepare(artifact, EMBEDDED_BASE)

    def samples() -> dict[str, Tensor]:
        drawn = {
            trigger: sampler.generate_several([_request(prompt, count) for prompt, count in wanted])
            for trigger, wanted in prompts.items()
        }
        return {trigger: encoder.embed(list(chain(*images))) for trigger, images in drawn.items()}

    before = samples()
    sampler.load(artifact)
    after = samples()
    own = {trigger: encoder.embed(_pictures(folder)) for trigger, folder in photos.items()}
    return {trigger: Taught(own[trigger], before[trigger], after[trigger]) for trigger in photos}


def _request(prompt: str, count: int) -> SampleRequest:
    return SampleRequest(
        prompt=prompt, num_outputs=count, num_inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE, seed=0
    )


def _pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
