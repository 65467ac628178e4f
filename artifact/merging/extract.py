"""Extracts a LoRA from a fully fine-tuned model: the best approximation of its difference from the base model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.conversion.files import require_free
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.merging.low_rank import Fit, nearest_lora, relative_error
from artifact.metadata import ArtifactDescription
from artifact.names.components import Place, components, place_names
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from families.registry import load_base_model
from settings.public import public_name


@dataclass
class Extraction:
    """The result of an extraction. `fits`: one per layer, in the model's order. `left_out`: changed parameters that a
    LoRA cannot represent."""

    fits: list[Fit] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a table."""
        rows = [f"{fit.change**0.5:>10.4g} {fit.explained:>9.2%}  {fit.name}" for fit in self.fits]
        error = relative_error(self.fits)
        total = f"relative error {error:.4g}, energy explained {1 - error**2:.2%}"
        lost = (
            f"left out, because a LoRA cannot contain them: {len(self.left_out)} parameters that differ (biases, "
            f"norms, token embedding tables), such as {next(iter(self.left_out), '')}"
        )
        heading = f"{'‖change‖':>10} {'explained':>9}  layer"
        return "\n".join([heading, *rows, total, *([lost] if self.left_out else [])])


def extract(
    tuned: str, base: str, target: Path, rank: int, *, precision: str = "fp16", base_config: str | None = None
) -> Extraction:
    """Write the LoRA of `rank` for `base` that is nearest to `tuned`, in denoiser and text encoders.

    Both are given like `base_model`: a folder in diffusers' layout, a single file, a hub id. Raises ArtifactError when
    they have different architectures or do not differ, BaseModelError when one cannot be loaded.
    """
    require_free(target)
    if rank < 1:
        raise ArtifactError(f"--rank: {rank} must be at least 1")
    families = [_load(model, base_config) for model in (tuned, base)]
    _require_alike(tuned, base, *families)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result, layers = Extraction(), dict[str, LoraLayer]()
    names = place_names(families[1])
    for place, name, change in _changes(*families):
        if name != "weight" or place not in names or change.ndim < 2:
            result.left_out.append(f"{place.component}.{place.path}.{name}")
            continue
        layers[names[place]], fit = nearest_lora(names[place], change.to(device), rank)
        result.fits.append(fit)
    if not layers:
        raise ArtifactError(f"{tuned} and {base} do not differ in any weight that a LoRA can change")
    family = families[1]
    description = ArtifactDescription(
        family=family.name,
        base_model=public_name(base),
        base_fingerprint=fingerprint(family.denoiser),
        prediction_type=family.noise_process.prediction_type,
        triggers={},
        steps=0,
        config={
            "extracted_from": Path(tuned).name,
            "rank": rank,
            "base_config": base_config and public_name(base_config),
        },
        zero_terminal_snr=family.noise_process.zero_terminal_snr,
    )
    Artifact(layers, {}, description).write(
        target, precision, architecture=family.architecture, base_model_version=family.base_model_version
    )
    return result


def _load(model: str, base_config: str | None) -> ModelFamily:
    family = load_base_model(model, torch.float32, base_config=base_config if Path(model).is_file() else None)
    return family.to(torch.device("cpu"))


def _require_alike(tuned: str, base: str, one: ModelFamily, other: ModelFamily) -> None:
    for what in ("name", "architecture", "base_model_version"):
        if (left := getattr(one, what)) != (right := getattr(other, what)):
            raise ArtifactError(f"{tuned} is {left} and {base} is {right}: give the base model that was fine-tuned")
    predictions = one.noise_process.prediction_type, other.noise_process.prediction_type
    if predictions[0] != predictions[1]:
        raise ArtifactError(
            f"{tuned} predicts {predictions[0]} and {base} predicts {predictions[1]}: a LoRA cannot change the "
            "prediction type. Give a base model with the same prediction type."
        )


def _changes(tuned: ModelFamily, base: ModelFamily) -> Iterator[tuple[Place, str, Tensor]]:
    """Yield every changed parameter: its module's place, its own name, and tuned - base in fp32.

    Raises ArtifactError when one model lacks a parameter of the other, or shapes differ.
    """
    others = components(tuned)
    for component, module in components(base).items():
        here, there = dict(module.named_parameters()), dict(others[component].named_parameters())
        if lacking := sorted(here.keys() ^ there.keys()):
            raise ArtifactError(f"{component}: only one of the two models has {lacking[0]}")
        for path, parameter in here.items():
            if parameter.shape != there[path].shape:
                shapes = f"{tuple(there[path].shape)} and {tuple(parameter.shape)}"
                if _is_vocabulary(module, path):
                    yield Place(component, path.rpartition(".")[0]), "vocabulary", torch.zeros(1)
                    continue
                raise ArtifactError(f"{component}: {path} has the shapes {shapes}: the two models differ in size")
            change = there[path].detach().float() - parameter.detach().float()
            if not torch.isfinite(change).all():
                raise ArtifactError(f"{component}: {path} contains values that are not finite")
            if change.any():
                owner, _, name = path.rpartition(".")
                yield Place(component, owner), name, change


def _is_vocabulary(module: Any, path: str) -> bool:
    """Whether the parameter is a text encoder's embedding table, whose size may differ by added tokens."""
    owner: nn.Module = module.get_submodule(path.rpartition(".")[0])
    return hasattr(module, "get_input_embeddings") and owner is module.get_input_embeddings()
