"""Requests to the Cog predictor, each with its own output folder."""

import os
import shutil
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from artifact.metadata import ArtifactDescription
from fetching.rules import FetchRules
from sampler.generation import Generation
from sampler.request import RequestError
from sampler.weights import read_weights
from service.policy.compilation import compilation_from_environment
from service.policy.policy import Policy
from service.prediction_inputs import PredictionInputs, predict, without_blanks

NUMBERS = {
    "strength": float, "width": int, "height": int, "num_outputs": int, "num_inference_steps": int,
    "guidance_scale": float, "guidance_rescale": float, "clip_skip": int, "seed": int, "output_quality": int,
    "refiner_start": float, "control_scale": float,
}  # fmt: skip
"""Declared types of numeric inputs: Cog accepts 3.0 for an int."""


class CogPredictions:
    """The predictor's state between requests: the base model, and the LoRAs that the server was started with."""

    def __init__(self, weights: str | None) -> None:
        """Load the LoRAs `weights` (COG_WEIGHTS) and their base. `weights` is set by the operator, so it may be a path.

        Raises ConfigError for an invalid variable of the policy, ArtifactError, DownloadError or BaseModelError.
        """
        self._policy = Policy.from_environment()
        self._loras = read_weights(weights, "1", local_files=True)
        self._folder: Path | None = None
        described = [lora.artifact.description for lora in self._loras if lora.artifact.description]
        own = {text for one in described for text in _models_of(one) if text}
        permissions = CallerPermissions(self._policy, frozenset(own))
        self._generation = Generation(_say, permissions, compilation_from_environment())
        if self._loras:
            with_base = [lora.artifact for lora in self._loras if lora.artifact.description]
            self._generation.prepare(with_base[0] if with_base else None, None)

    def predict(self, inputs: PredictionInputs) -> list[Path]:
        """Generate the images of a request. Those of the previous request are deleted, since Cog has sent them.

        Raises NotAllowed, RequestError, ArtifactError, DownloadError or BaseModelError.
        """
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix="images-"))
        allowed = self._policy.allow_prediction(without_blanks(as_declared(inputs)))
        rules = FetchRules.from_environment()
        return predict(
            allowed, self._generation, self._folder, default_loras=self._loras,
            rules=rules if self._policy.use_tokens else rules.without_tokens(), say=_say, metric=_record,
        ).paths  # fmt: skip


@dataclass(frozen=True)
class CallerPermissions:
    """The operator's policy, with exceptions for the bases of the LoRAs that the server was started with."""

    policy: Policy
    own: frozenset[str]

    def require_model(self, name: str, text: str) -> None:
        """Raises NotAllowed."""
        if text not in self.own:
            self.policy.require_model(name, text)

    def require_revision(self, revision: str) -> None:
        """Raises NotAllowed."""
        if revision not in self.own:
            self.policy.require_revision(revision)

    def require_pixels(self, width: int, height: int) -> None:
        """Raises NotAllowed."""
        self.policy.require_pixels(width, height)


def _models_of(description: ArtifactDescription) -> tuple[Any, ...]:
    """Return the models that a LoRA's header names."""
    config = description.config
    return description.base_model, config.get("base_config"), config.get("vae"), config.get("base_revision")


def as_declared(inputs: PredictionInputs) -> PredictionInputs:
    """Convert the inputs to their declared types. Raises RequestError for an image that is not an upload."""
    return replace(
        inputs, **{field.name: _converted(field.name, getattr(inputs, field.name)) for field in fields(inputs)}
    )


def _converted(name: str, value: Any) -> Any:
    """Convert one input. Raises RequestError for an image that is not an upload but a path on the server."""
    if value is not None and name in NUMBERS:
        return NUMBERS[name](value)
    if value is not None and name in ("image", "mask", "control_image"):
        if not isinstance(value, os.PathLike):
            raise RequestError(f"{name}: {str(value)[:100]!r} is not an upload or a http(s) URL")
        return Path(value)
    return value


def _say(line: str) -> None:
    print(line, flush=True)


def _record(name: str, value: float | int) -> None:
    """Record a metric in Cog; without effect outside a Cog request."""
    from cog import current_scope

    current_scope().record_metric(name, value)
