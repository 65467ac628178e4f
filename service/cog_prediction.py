"""One request to the Cog predictor: inputs as Cog hands them over, files in a folder of the request's own."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampler.generation import Generation
from sampler.request import RequestError
from sampler.weights import read_weights
from service.prediction_inputs import PredictionInputs, predict

NUMBERS = {
    "strength": float, "width": int, "height": int, "num_outputs": int, "num_inference_steps": int,
    "guidance_scale": float, "guidance_rescale": float, "clip_skip": int, "seed": int, "output_quality": int,
    "refiner_start": float,
}  # fmt: skip
"""Cog lets 3.0 pass for an int."""


class CogPredictions:
    """What stays between requests: the base, and the LoRAs that the server was started with."""

    def __init__(self, weights: str | None) -> None:
        """`weights` (COG_WEIGHTS) comes from the operator, so it may be a path. Loads its base.

        Raises ArtifactError, DownloadError or BaseModelError.
        """
        self._generation = Generation(say=_say)
        self._loras = read_weights(weights, "1", local_files=True)
        self._folder: Path | None = None
        described = [lora.artifact for lora in self._loras if lora.artifact.description]
        if self._loras:
            self._generation.prepare(described[0] if described else None, None)

    def predict(self, inputs: Mapping[str, Any]) -> list[Path]:
        """Draw the images. Those of the request before are gone then: Cog has sent them.

        Raises RequestError, ArtifactError, DownloadError or BaseModelError.
        """
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix="images-"))
        values = {name: _converted(name, value) for name, value in inputs.items()}
        return predict(
            PredictionInputs(**values), self._generation, self._folder, default_loras=self._loras,
            say=_say, metric=_record,
        ).paths  # fmt: skip


def _converted(name: str, value: Any) -> Any:
    """Raises RequestError for a picture that is no upload: a path of the server's own disk."""
    if value is not None and name in NUMBERS:
        return NUMBERS[name](value)
    if value is not None and name in ("image", "mask"):
        if not isinstance(value, os.PathLike):
            raise RequestError(f"{name}: {str(value)[:100]!r} is not an upload or a http(s) URL")
        return Path(value)
    return value


def _say(line: str) -> None:
    print(line, flush=True)


def _record(name: str, value: float | int) -> None:
    """Hand the figure to Cog; outside a Cog request this does nothing."""
    from cog import current_scope

    current_scope().record_metric(name, value)
