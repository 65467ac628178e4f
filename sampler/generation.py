"""From a request by name to images: finds the base that an artifact was trained on, and keeps it loaded."""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from families.fingerprint import fingerprint
from families.registry import load_base_model
from sampler.sampler import Sampler, SampleRequest

DEFAULT_BASE = "stabilityai/stable-diffusion-xl-base-1.0"


class Generation:
    """Loads a base when it is first asked for, and keeps it until another one is."""

    def __init__(self) -> None:
        self._base_model: str | None = None
        self._options: dict[str, Any] = {}
        self._fingerprint = ""
        self._sampler: Sampler | None = None

    def prepare(self, artifact: Artifact | None, base_model: str | None) -> Sampler:
        """The sampler for the base named, else for the artifact's own, else for SDXL. Raises BaseModelError."""
        described = artifact.description.base_model if artifact and artifact.description else None
        wanted = base_model or described or DEFAULT_BASE
        options = _loading_options(artifact, wanted)
        if self._sampler is None or (wanted, options) != (self._base_model, self._options):
            self._sampler = None  # the old base goes before the new one comes
            cuda = torch.cuda.is_available()
            family = load_base_model(wanted, torch.bfloat16 if cuda else torch.float32, **options)
            self._sampler = Sampler(family.to(torch.device("cuda" if cuda else "cpu")))
            self._base_model, self._options, self._fingerprint = wanted, options, fingerprint(family.denoiser)
        return self._sampler

    def generate(
        self, request: SampleRequest, artifact: Artifact | None, lora_scale: float, base_model: str | None
    ) -> list[Image.Image]:
        """Draw images. Raises RequestError, ArtifactError or BaseModelError; the bare base is left in any case."""
        sampler = self.prepare(artifact, base_model)
        sampler.check(request)
        if artifact is None:
            return sampler.generate(request)
        self._warn(artifact, request, lora_scale)
        sampler.load(artifact, lora_scale)
        try:
            return sampler.generate(request)
        finally:
            sampler.unload()

    def _warn(self, artifact: Artifact, request: SampleRequest, lora_scale: float) -> None:
        description = artifact.description
        if description is None:
            return
        if description.base_fingerprint != self._fingerprint:
            _say(
                f"the LoRA was trained on {description.base_model}, whose weights differ from those of "
                f"{self._base_model}: it may look weaker or different here"
            )
        if not any(trigger in request.prompt for trigger in description.triggers):
            _say(f"the prompt lacks the trigger word {' or '.join(description.triggers)}")
        if lora_scale == 0:
            _say("lora_scale is 0: only the token embeddings have an effect")


def _loading_options(artifact: Artifact | None, base_model: str) -> dict[str, Any]:
    """How the artifact's own base was opened for its training; nothing for another base."""
    description = artifact.description if artifact else None
    if description is None or description.base_model != base_model:
        return {}
    names = ("base_config", "prediction_type", "zero_terminal_snr")
    chosen = {name: description.config.get(name) for name in names}
    return {name: value for name, value in chosen.items() if value not in (None, False, "auto")}


def with_seed(request: SampleRequest, seed: int | None) -> SampleRequest:
    """The request with its seed: the one given, else a random one of 32 bits that is printed, so it can be repeated."""
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed: {chosen}", file=sys.stderr, flush=True)
    return replace(request, seed=chosen)


def save_images(images: list[Image.Image], folder: Path) -> list[Path]:
    """Write PNGs, numbered in the order of their seeds, and give their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02d}.png" for index in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths


def _say(warning: str) -> None:
    print(f"warning: {warning}", file=sys.stderr, flush=True)
