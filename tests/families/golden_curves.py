"""Curves of 20 training steps of every family's tiny model on fixed latents, which a refactoring must not change.

    python -m tests.families.golden_curves

rewrites them in tests/families/golden/. Do this only if the training itself is meant to change, and state the reason in
the commit. A curve has the loss and the gradient norms of each step. A step has two micro-batches, because errors of
gradient accumulation only show with several. All settings whose defaults could change are set here.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator

from families.family import ModelFamily, SizeConditioning
from families.loading.sources import BaseModelSource, pipeline_class_name
from families.registry import FAMILIES
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from tests.tiny_models import SIDE, TINY_MODELS, load_tiny
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.resolution import resolve
from trainer.training import Training

GOLDEN = Path(__file__).parent / "golden"
STEPS = 20
TOLERANCE = 2e-4
"""Relative. One machine reproduces all seven digits that are kept. Matrix products of another processor are rounded
differently, and the differences grow over 20 steps. The curve of a faulty loop lies far outside:
`test_a_faulty_loop_leaves_the_golden_curve`."""

Curve = list[dict[str, float]]


OF_TOKENS = {"num_tokens": 2, "token_optimizer": "adamw", "token_learning_rate": 1e-2}


def learns_tokens(base_model: str) -> bool:
    """Return whether the base's family learns the trigger as new tokens; True if the base is not a folder."""
    folder = Path(base_model)
    if not folder.is_dir():
        return True
    return FAMILIES[pipeline_class_name(BaseModelSource(base_model, "folder", base_model))].defaults.num_tokens > 0


def curve_config(base_model: str, **changes: object) -> TrainingConfig:
    """Return the settings of the curves. Learning rates are high, so that an error soon changes the losses, too."""
    settings: dict[str, object] = {
        "base_model": base_model,
        "class_word": "figure",
        "max_train_steps": STEPS,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "rank": 4,
        "alpha": 4,
        **(OF_TOKENS if learns_tokens(base_model) else {"num_tokens": 0}),
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 2,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "caption_dropout": 0.25,
        "lora_targets": "attention",
        "prior_matching_weight": 0.0,
        "mask_floor": None,
        "seed": 0,
        **changes,
    }
    return TrainingConfig(**settings)


def cached_examples(count: int = 6, latents: torch.Size | None = None) -> list[CachedExample]:
    """Return examples with random moments, so that the curves do not depend on data preparation. `latents`: the shape
    of one image's latents, if the family caches these instead of moments.
    """
    generator = torch.Generator().manual_seed(7)
    size = SizeConditioning((96, 80), (8, 0), (64, 64))
    examples = []
    for index in range(count):
        shape = latents or torch.Size((4, 16, 16))
        mean = torch.randn(shape, generator=generator) * (3 if latents is None else 1)
        moments = torch.cat([mean, torch.full(shape, -6.0)]) if latents is None else mean
        mask = torch.rand(1, *shape[1:], generator=generator) if index % 2 else None
        view = CachedView(moments, mask, size)
        examples.append(CachedExample((view,), f"a photo of TOK, number {index}", "TOK", (64, 64), 1, 1.0))
    return examples


@contextmanager
def curve_training(family: ModelFamily, config: TrainingConfig) -> Iterator[Training]:
    """A training on `cached_examples`. At the end it is removed from the base."""
    dataset = PreparedDataset(Path(), (), (), ())
    cached = family.encode_image(torch.zeros(1, 3, SIDE, SIDE)).shape
    examples = cached_examples(latents=cached[1:] if family.latent_shape(cached) == cached else None)
    training = build_training(resolve(config, family), family, dataset, examples, Accelerator(cpu=True))
    try:
        yield training
    finally:
        training.remove()


@dataclass(frozen=True)
class Undisturbed:
    """An uninterrupted training. `checkpoint`: the folder of one of its checkpoints. `losses`: of the steps after the
    checkpoint. `rows`: embeddings of the tokens at the end."""

    checkpoint: Path
    losses: list[dict[str, float]]
    rows: list[torch.Tensor]


def undisturbed(family: ModelFamily, config: TrainingConfig, folder: Path, kill: int = 1) -> Undisturbed:
    """Train to the end, with a checkpoint in `folder` after step `kill`."""
    checkpoints, losses = Checkpoints(folder), list[dict[str, float]]()
    with curve_training(family, config) as training:
        for step in training.trainer.steps():
            if step.number > kill:
                losses.append(step.losses)
            if step.number == kill:
                checkpoints.write(training)
        return Undisturbed(checkpoints.path(kill), losses, training.tokens.rows())


@contextmanager
def resumed(family: ModelFamily, config: TrainingConfig, whole: Undisturbed) -> Iterator[Training]:
    """A training that is resumed from the checkpoint of `whole`."""
    with curve_training(family, config) as training:
        restore(training, read_checkpoint(whole.checkpoint))
        yield training


def curve(training: Training, steps: int = STEPS) -> Curve:
    """Return losses and gradient norms of every step, or of the first `steps`, with seven digits."""
    return [
        {name: float(f"{value:.7g}") for name, value in {**step.losses, **_named(step.gradient_norms)}.items()}
        for step in islice(training.trainer.steps(), steps)
    ]


def _named(norms: dict[str, float]) -> dict[str, float]:
    return {f"gradient norm of {name}": value for name, value in norms.items()}


def golden_curve(kind: str, folder: Path, steps: int = STEPS) -> Curve:
    """Compute the curve of one of TINY_MODELS, or its first `steps`."""
    family = load_tiny(kind, folder)
    with curve_training(family, curve_config(str(folder))) as training:
        return curve(training, steps)


def main() -> None:
    for kind in TINY_MODELS:
        with tempfile.TemporaryDirectory() as folder:
            lines = ",\n".join(json.dumps(step) for step in golden_curve(kind, Path(folder)))
        (GOLDEN / f"{kind}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
