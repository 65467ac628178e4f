"""The evaluation stage of a training: when it runs, its cost, and the use of its result."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from artifact.artifact import Artifact
from artifact.metadata import OWN_KEY
from artifact.safetensors_file import write_safetensors
from evaluation.checkpoints import Evaluation, evaluate_checkpoints, load_encoders, to_json
from evaluation.scores import Encoders
from families.family import ModelFamily
from job.embedding_files import write_embedding_files
from job.output_folder import OutputFolder, write_whole
from job.progress import Progress
from job.samples import SampleSettings, write_samples
from preprocess.dataset import PreparedDataset
from preprocess.workers.relay import relay
from sampler.sampler import Sampler
from settings.preparation import DataConfig
from settings.record import ConfigError
from settings.sections.validation import ValidationSection
from trainer.checkpoints.folders import WEIGHTS, Checkpoints


def evaluation_encoders(
    validation: ValidationSection,
    base_model: str,
    wanted: bool,
    device: torch.device,
    cache: Path,
    fraction: float,
) -> Generator[Progress, None, Encoders | None]:
    """Load the encoders before training, so that a wrong name is reported early. Returns None if not `wanted`.

    Raises ConfigError for encoders that cannot be loaded with evaluate: true; with auto, yields a warning at `fraction`
    of the job.
    """
    if not wanted:
        return None
    try:
        return load_encoders(validation, base_model, device, cache)
    except ConfigError as error:
        if validation.evaluate == "true":
            raise
        yield Progress(f"samples are not scored, and the last step will be returned: {error}", fraction, warning=True)
        return None


def evaluating(
    validation: ValidationSection,
    preparation: DataConfig,
    base_model: str,
    samples: SampleSettings,
    family: ModelFamily,
    dataset: PreparedDataset,
    output: OutputFolder,
    encoders: Encoders,
    last_step: int,
    span: tuple[float, float],
) -> Generator[Progress, None, dict[str, Any]]:
    """Select the best of the checkpoints and the last step, and write it to weights.safetensors.

    Returns the contents of evaluation.json. `span`: fractions of the job.
    """
    kept = Checkpoints(output.checkpoints)
    files = {step: kept.path(step) / WEIGHTS for step in kept.due_steps()}
    files[last_step] = output.weights
    stages = evaluate_checkpoints(validation, preparation, base_model, family, dataset, files, encoders)
    first, last = span

    def line(report: tuple[str, int, int]) -> Progress:
        what, done, total = report
        fraction = first + (last - first) * done / total
        said = f"evaluated {what}: {done} of {total} images"
        return Progress(said, fraction, stage="evaluating", done=done, total=total)

    evaluation = yield from relay(stages, line)
    chosen = evaluation.chosen
    rewrite_header(files[chosen.step], output.weights, recommended_scale=chosen.scale)
    artifact = Artifact.read(output.weights)
    write_embedding_files(artifact, output)
    _sample_choice(samples, family, output, artifact, chosen.scale)
    report = _keep(evaluation, output)
    yield Progress(f"verdict: {evaluation.verdict.headline}", span[1])
    return report


def _sample_choice(
    settings: SampleSettings, family: ModelFamily, output: OutputFolder, artifact: Artifact, scale: float
) -> None:
    """Replace the samples in the output by those of the selected weights."""
    sampler = Sampler(family)
    sampler.load(artifact, scale)
    try:
        write_samples(settings, sampler, output.samples)
    finally:
        sampler.unload()


def rewrite_header(source: Path, target: Path, **changes: Any) -> None:
    """Write the artifact at `source` to `target` with changed fields in its description. Tensors are unchanged."""
    with safe_open(source, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    description = json.loads(header[OWN_KEY]) | changes
    header[OWN_KEY] = json.dumps(description, ensure_ascii=False, sort_keys=True)
    write_safetensors(tensors, target, header)


def _keep(evaluation: Evaluation, output: OutputFolder) -> dict[str, Any]:
    """Write images and evaluation.json, and return its contents. File names are relative to the output folder."""

    def save(folder: str, images: list[Any]) -> list[str]:
        (output.evaluation / folder).mkdir(parents=True, exist_ok=True)
        paths = [output.evaluation / folder / f"{index:02d}.png" for index in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            image.save(path)
        return [path.relative_to(output.path).as_posix() for path in paths]

    names = {
        (step, scale): save(f"step_{step:06d}_scale_{scale:g}", images)
        for (step, scale), images in evaluation.pictures.items()
    }
    report = to_json(evaluation, names, save("base", evaluation.base_pictures))
    write_whole(output.evaluation / "evaluation.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report
