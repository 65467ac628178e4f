"""Generates the images of a request: loads the base model of an artifact and keeps it loaded."""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from artifact.controlnet.files import controlnet_description
from artifact.metadata import ArtifactDescription
from artifact.placement.compilation import Compilation
from families.errors import BaseModelError
from families.family import Refiner, frozen_reader, limited_licence, refinable
from families.loading.fingerprint import fingerprint
from families.registry import load_base_model
from sampler.duplicates import merge_duplicates
from sampler.extras import NO_EXTRAS, Extras
from sampler.guidance_notes import guidance_notes
from sampler.images.control import controlnet_file, load_control
from sampler.images.parameters import parameters_text
from sampler.images.safety_checker import SafetyChecker
from sampler.images.starting_picture import drawn_size, mask_notes
from sampler.local_base import can_be_found, loading_options, place_on, require_fast, require_fitting
from sampler.permissions import EVERYTHING, Permissions
from sampler.prompts.encoding import require_readable
from sampler.prompts.foreign_syntax import prompt_notes
from sampler.prompts.plain_words import words_in
from sampler.refining import Refinement, require_refinable
from sampler.request import RequestError, check_clip_skip, filled
from sampler.sampler import OnStep, Sampler, SampleRequest
from sampler.weights import ScaledArtifact
from settings.public import public_name

DEFAULT_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Drawn:
    """The result of a request.

    `images` and their generation `parameters` (text) by image number, in the order of their seeds. `withheld`: numbers
    of the images that the safety checker flagged. `triggers`: trigger words of the loaded LoRAs.
    """

    images: dict[int, Image.Image]
    parameters: dict[int, str]
    withheld: list[int]
    triggers: tuple[str, ...]


class Generation:
    """Loads a base model on first use, and keeps it until a request needs another one."""

    def __init__(
        self, say: Say | None = None, permissions: Permissions = EVERYTHING, compilation: Compilation | None = None
    ) -> None:
        """`say` receives messages, by default printed to stderr. `compilation`: of the denoisers' blocks, or None."""
        self._say = say or _to_stderr
        self._permissions = permissions
        self._compilation = compilation
        self._base_model: str | None = None
        self._options: dict[str, Any] = {}
        self._go_fast = False
        self._fingerprint = ""
        self._sampler: Sampler | None = None
        self._checker: SafetyChecker | None = None
        self._refiner: tuple[str, Refiner] | None = None

    def prepare(
        self,
        artifact: Artifact | None,
        base_model: str | None,
        prompts: Sequence[str] = (),
        vae: str | None = None,
        loras: Sequence[Artifact] = (),
        go_fast: bool = False,
    ) -> Sampler:
        """Return the sampler for `base_model`, by default the artifact's base model, or SDXL. Raises BaseModelError.

        `prompts` are encoded before the denoiser is loaded, if the base model has a frozen text encoder. `vae`:
        replaces the artifact's or the base model's own. `loras`: raises ArtifactError for one that does not fit, if
        possible before weights are read. `go_fast`: matrix products in fp8; raises RequestError.
        """
        described = artifact.description.base_model if artifact and artifact.description else None
        wanted = base_model or described or DEFAULT_BASE
        options = loading_options(artifact, wanted) | ({} if vae is None else {"vae": vae})
        if vae is None and not can_be_found(options.get("vae")):
            self._say(
                f"warning: vae: the LoRA was trained with {options.pop('vae')}, which was not found; using the base "
                "model's own VAE. Set vae to the path of that file or folder"
            )
        self._require_allowed(wanted, options)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if go_fast:
            require_fast(loras, device)
        if self._sampler is None or (wanted, options, go_fast) != (self._base_model, self._options, self._go_fast):
            self._sampler = None  # frees the old base before the new one is loaded
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            try:
                family = load_base_model(wanted, dtype, **options)
            except BaseModelError as error:
                if base_model is not None or described is None or str(error).startswith("vae: "):
                    raise
                raise BaseModelError(f"{error} Set base_model to the model that the LoRA was trained on.") from error
            if (licence := limited_licence(family)) is not None:
                self._say(f"warning: {licence}")
            require_fitting(loras, family)
            if (reader := frozen_reader(family)) is not None:
                reader.read_ahead(prompts)
            self._sampler = Sampler(place_on(family, device, go_fast=go_fast), self._compilation)
            self._base_model, self._options, self._go_fast = wanted, options, go_fast
            self._fingerprint = fingerprint(family.denoiser)
        return self._sampler

    def _require_allowed(self, base_model: str, options: Mapping[str, Any]) -> None:
        """Check the permissions, and raise their errors."""
        self._permissions.require_model("base_model", base_model)
        for name in ("base_config", "vae"):
            if name in options:
                self._permissions.require_model(name, options[name])
        if "base_revision" in options:
            self._permissions.require_revision(options["base_revision"])

    def generate(
        self,
        request: SampleRequest,
        loras: Sequence[ScaledArtifact],
        base_model: str | None,
        on_step: OnStep | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> Drawn:
        """Generate the images, with the last steps by the refiner, and withhold those that the safety checker flags.

        Raises RequestError (also when all images are flagged), ArtifactError, DownloadError or BaseModelError. The
        LoRAs are always removed from the base afterwards.
        """
        if extras.steering is None:
            return self._generate(request, loras, base_model, on_step, extras, None)
        with controlnet_file(extras.steering) as path:
            return self._generate(request, loras, base_model, on_step, extras, path)

    def _generate(
        self,
        request: SampleRequest,
        loras: Sequence[ScaledArtifact],
        base_model: str | None,
        on_step: OnStep | None,
        extras: Extras,
        controlnet: Path | None,
    ) -> Drawn:
        loras, merged = merge_duplicates(loras)
        described = [lora.artifact for lora in loras if lora.artifact.description]
        if not described and controlnet is not None:
            described = [Artifact({}, {}, controlnet_description(controlnet))]
        prompts = (request.prompt, request.negative_prompt)
        artifacts = [lora.artifact for lora in loras]
        described_first = described[0] if described else None
        sampler = self.prepare(described_first, base_model, prompts, extras.vae, artifacts, extras.go_fast)
        original, request = request, filled(request, sampler.family)
        if controlnet is not None and extras.steering is not None:
            request = replace(request, control=load_control(controlnet, extras.steering, sampler.family))
        sampler.check(request)
        size = drawn_size(request, sampler.family)
        self._permissions.require_pixels(*size)
        refinement = self._refinement(request, extras, sampler)
        checker = self._safety_checker(extras.safety_checker, sampler)
        for note in (*merged, *mask_notes(request.mask, size)):
            self._say(f"warning: {note}")
        self._warn(loras)
        begun = time.monotonic()
        try:
            for note in sampler.load_several([(lora.artifact, lora.scale) for lora in loras]):
                self._say(f"warning: {note}")
            if loras:
                self._say(f"{len(loras)} LoRA{'s' if len(loras) > 1 else ''} applied in {_since(begun)}")
            for note in guidance_notes(original, request, sampler.family):
                self._say(note)
            self._tell_triggers(request.prompt, tuple(sampler.triggers))
            named = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
            for note in require_readable(named, sampler.triggers, sampler.family):
                self._say(note)
            if refinement is not None:
                refinement = replace(refinement, words=sampler.class_words)
                self._tell_refined(request, loras, sampler)
            images = sampler.generate(request, on_step=on_step, refinement=refinement)
            triggers = tuple(sampler.triggers)
        finally:
            sampler.unload()
        withheld = self._withhold(images, request, checker) if checker else []
        kept = {number: image for number, image in enumerate(images) if number not in withheld}
        texts = {
            number: parameters_text(request, number, size, str(self._base_model), loras, extras) for number in kept
        }
        return Drawn(kept, texts, withheld, triggers)

    def _refinement(self, request: SampleRequest, extras: Extras, sampler: Sampler) -> Refinement | None:
        """Return the loaded refiner of the last steps. It stays loaded until another one is requested. Raises as
        `generate`."""
        if not extras.refiner:
            return None
        require_refinable(request, extras.refiner_start, sampler.family)
        if self._refiner is None or self._refiner[0] != extras.refiner:
            self._refiner = None
            family = refinable(sampler.family)
            assert family is not None  # require_refinable
            refiner = family.load_refiner(extras.refiner, next(sampler.family.denoiser.parameters()).dtype)
            self._refiner = extras.refiner, refiner.to(sampler.family.device)
        refiner = self._refiner[1]
        refiner.require_goes_with(sampler.family)
        check_clip_skip(request.clip_skip, refiner)
        return Refinement(refiner, extras.refiner_start)

    def _tell_refined(self, request: SampleRequest, loras: Sequence[ScaledArtifact], sampler: Sampler) -> None:
        """Report the parts of the LoRAs that have no effect on the refiner."""
        if loras:
            self._say("refiner: LoRAs have no effect on it; increase refiner_start if it weakens the concept")
        used = words_in(f"{request.prompt}\n{request.negative_prompt}", tuple(sampler.triggers))
        for trigger in used:
            if trigger in sampler.class_words:
                self._say(f"refiner: its prompt has {sampler.class_words[trigger]!r} instead of {trigger}")
            else:
                self._say(
                    f"warning: refiner: does not know the trigger word {trigger}, and the LoRA has no class_word to "
                    "replace it; the word stays in the refiner's prompt"
                )

    def _safety_checker(self, location: str | None, sampler: Sampler) -> SafetyChecker | None:
        """Return the safety checker, which stays loaded until another one is requested."""
        if not location:
            return None
        if self._checker is None or self._checker.location != location:
            self._checker = None
            self._checker = SafetyChecker.load(location, sampler.family.device)
        return self._checker

    def _withhold(self, images: Sequence[Image.Image], request: SampleRequest, checker: SafetyChecker) -> list[int]:
        """Return the numbers of flagged images, and warn of each. Raises RequestError when all images are flagged."""
        withheld = [number for number, flagged in enumerate(checker.flags(images)) if flagged]
        if len(withheld) == len(images):
            which = "the image was" if len(images) == 1 else f"all {len(images)} images were"
            raise RequestError(
                f"safety_checker: {which} flagged, so there is nothing to return. Change the prompt or the seed."
            )
        for number in withheld:
            self._say(
                f"warning: safety_checker: image {number + 1} of {len(images)} (seed {request.seed + number}) was "
                "flagged and is withheld. Change the prompt or the seed."
            )
        return withheld

    def _warn(self, loras: Sequence[ScaledArtifact]) -> None:
        for lora in loras:
            description = lora.artifact.description
            if description is not None and self._is_another_base(description):
                self._say(
                    f"warning: {lora.name} was trained on {description.base_model}, whose weights differ from those "
                    f"of {self._base_model}: its effect may be weaker or different"
                )
            if lora.scale == 0:
                self._say(f"warning: lora_scale of {lora.name} is 0: only its token embeddings have an effect")

    def _is_another_base(self, description: ArtifactDescription) -> bool:
        """Whether a LoRA was trained on other weights. Weights that were rounded to fp16 have another fingerprint; then
        only the names are compared."""
        if description.config.get("mixed_precision") == "fp16":
            return public_name(description.base_model) != public_name(str(self._base_model))
        return description.base_fingerprint != self._fingerprint

    def _tell_triggers(self, prompt: str, triggers: Sequence[str]) -> None:
        for note in prompt_notes(prompt, triggers):
            self._say(f"warning: {note}")
        if not triggers:
            return
        self._say(f"trigger words: {', '.join(triggers)}")
        used = words_in(prompt, triggers)
        missing = [trigger for trigger in triggers if trigger not in used]
        if missing:
            self._say(
                f"warning: the prompt does not contain the trigger word {' and '.join(missing)}; add it for the concept"
            )


def chosen_seed(seed: int | None) -> int:
    """Return `seed`, or a random one of 53 bits, which every JSON reader represents exactly."""
    return random.SystemRandom().randrange(2**53) if seed is None else seed


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:.2f} s"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
