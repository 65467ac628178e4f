"""Samples the checkpoints of a training at every scale, scores them, and chooses the one to return."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from evaluation.choice import Candidate, choose, relate
from evaluation.concepts import likeness, likeness_said, sampled_concepts
from evaluation.drawing import DrawingPlan, Samples, draw_samples
from evaluation.embedding_cache import CachedEncoder
from evaluation.encoders import EMBEDDED_EVALUATOR, ClipEncoder, DinoEncoder
from evaluation.faces import FaceEncoder
from evaluation.prompt_sets import PromptSet, captions_of, prompt_set
from evaluation.scores import Encoders, Judge
from evaluation.subject_pictures import references
from evaluation.verdict import Verdict, give_verdict
from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASES
from preprocess.dataset import PreparedDataset
from sampler.sampler import Sampler
from settings.preparation import DataConfig
from settings.sections.validation import ValidationSection

DEFAULT_CLIP, DEFAULT_DINO = "openai/clip-vit-large-patch14", "facebook/dinov2-base"
INFERENCE_STEPS = 20
"""Denoising steps of the evaluation's samples, or fewer if the validation samples have fewer. Sufficient to rank
candidates."""
EVALUATION_SEED = 1000
"""Added to the run's seed, so that the evaluation's samples differ from the validation samples."""

Tested = tuple[str, int, int]
"""Description of the finished part, number of generated images, and total number of images."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    ablation: likeness to the training images of samples with and without the trigger word, the LoRA loaded; None
    without a trigger word. by_concept: likeness of the chosen weights' samples to each concept's training images, by
    trigger word: of the first concept, by which the checkpoint is chosen, and of at most two others.
    """

    candidates: list[Candidate]
    chosen: Candidate
    judge: Judge
    verdict: Verdict
    plan: DrawingPlan
    ablation: tuple[float, float] | None
    reference_scale: float
    base_pictures: list[Image.Image]
    pictures: dict[tuple[int, float], list[Image.Image]]
    by_concept: dict[str, float]


def load_encoders(
    validation: ValidationSection, base_model: str, device: torch.device, cache: Path | None = None
) -> Encoders:
    """Load the encoders of the settings. Raises ConfigError when one cannot be loaded."""
    embedded = base_model in EMBEDDED_BASES
    clip = ClipEncoder(validation.evaluation_clip or (EMBEDDED_EVALUATOR if embedded else DEFAULT_CLIP), device)
    dino = validation.evaluation_dino or ("none" if embedded else DEFAULT_DINO)
    images = CachedEncoder(clip, cache / "clip.safetensors" if cache else None)
    faces = FaceEncoder.load(validation.evaluation_face_model) if validation.evaluation_face_model else None
    if dino == "none":
        return Encoders(clip, images, None, faces)
    encoder = DinoEncoder(dino, device)
    return Encoders(clip, images, CachedEncoder(encoder, cache / "dino.safetensors" if cache else None), faces)


def evaluation_prompts(
    validation: ValidationSection,
    preparation: DataConfig,
    base_model: str,
    captions: Sequence[str] = (),
    class_words: Mapping[str, str | None] | None = None,
) -> PromptSet:
    """The prompts of a training's evaluation: those of the settings, otherwise those of the concept mode.

    `captions`: of the data, for concepts without a trigger word. `class_words`: the concepts that are sampled, by
    default all, of which the first one's trigger word is used. Raises ConfigError as `prompt_set` does.
    """
    return prompt_set(
        base_model,
        preparation.concept_mode,
        {**(class_words or {}), **preparation.class_words},  # prompts may contain the words of other concepts
        validation.evaluation_prompts,
        validation.unrelated_prompts,
        captions,
    )


def drawing_plan(
    validation: ValidationSection,
    preparation: DataConfig,
    base_model: str,
    side: int,
    captions: Sequence[str] = (),
    class_words: Mapping[str, str | None] | None = None,
) -> DrawingPlan:
    """`side` of the images in pixels. `captions`, `class_words`: as for `evaluation_prompts`."""
    return DrawingPlan(
        evaluation_prompts(validation, preparation, base_model, captions, class_words),
        validation.evaluation_samples,
        side,
        side,
        min(INFERENCE_STEPS, validation.num_inference_steps),
        validation.guidance_scale,
        preparation.seed + EVALUATION_SEED,
    )


def thin(steps: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the steps, evenly spread, including the last one."""
    ordered = sorted(steps)
    if len(ordered) <= count:
        return ordered
    return sorted({ordered[-1 - index * len(ordered) // count] for index in range(count)})


def evaluate_checkpoints(
    validation: ValidationSection,
    preparation: DataConfig,
    base_model: str,
    family: ModelFamily,
    dataset: PreparedDataset,
    files: Mapping[int, Path],
    encoders: Encoders,
) -> Generator[Tested, None, Evaluation]:
    """Score `files` (artifacts by step) at every scale, and choose one. Yields after each candidate.

    The base must have no adapters, and has none afterwards.
    """
    sampler = Sampler(family)
    side = preparation.largest_resolution or family.native_resolution
    plan = drawing_plan(validation, preparation, base_model, side, captions_of(dataset))
    steps = thin(list(files), validation.evaluation_checkpoints)
    cells = [(step, scale) for step in steps for scale in sorted(validation.evaluation_scales)]
    total = (len(cells) + 1) * plan.pictures_per_candidate
    base = draw_samples(sampler, plan, plain=True)
    # prompts contain the first concept; captions may be of any concept
    judge = Judge(encoders, plan, references(dataset, next(iter(preparation.class_words), None)), base)
    yield "the base model", plan.pictures_per_candidate, total
    candidates, pictures = [], {}
    for number, (step, scale) in enumerate(cells, 2):
        samples = _draw_with(sampler, plan, files[step], scale)
        scores = judge.score(samples)
        candidates.append(Candidate(step, scale, scores, relate(scores, judge.base, judge.training_pictures)))
        pictures[step, scale] = _first_of_each(samples)
        yield f"step {step} at scale {scale:g}", number * plan.pictures_per_candidate, total
    chosen = choose(candidates)
    reference_scale = min(validation.evaluation_scales, key=lambda scale: abs(scale - 1))
    ablation = _ablate(sampler, plan, judge, files[chosen.step], chosen) if preparation.class_words else None
    by_concept = {trigger: chosen.relative.fidelity for trigger in list(preparation.class_words)[:1]}
    for concept in sampled_concepts(preparation.class_words)[1:]:
        (trigger,) = concept
        other = drawing_plan(validation, preparation, base_model, side, (), concept)
        draw = partial(_draw_chosen_or_base, sampler, files[chosen.step], chosen.scale)
        by_concept[trigger] = likeness(other, references(dataset, trigger), encoders.identity, draw)
    encoders.save()
    verdict = _with_concepts(give_verdict(candidates, chosen, reference_scale), by_concept, preparation)
    return Evaluation(
        candidates, chosen, judge, verdict, plan, ablation, reference_scale, _first_of_each(base), pictures, by_concept
    )


def _draw_with(sampler: Sampler, plan: DrawingPlan, file: Path, scale: float, *, plain: bool = False) -> Samples:
    sampler.load(Artifact.read(file), scale)
    try:
        return draw_samples(sampler, plan, plain=plain)
    finally:
        sampler.unload()


def _draw_chosen_or_base(sampler: Sampler, file: Path, scale: float, plan: DrawingPlan, of_base: bool) -> Samples:
    return draw_samples(sampler, plan, plain=True) if of_base else _draw_with(sampler, plan, file, scale)


def _with_concepts(verdict: Verdict, by_concept: Mapping[str, float], preparation: DataConfig) -> Verdict:
    """The evaluation with a sentence about each of several concepts."""
    if len(by_concept) < 2:
        return verdict
    said = likeness_said(by_concept, len(preparation.class_words))
    chosen_by = f"Checkpoint and scale are chosen by the concept {next(iter(by_concept))}."
    return replace(verdict, reasons=[*verdict.reasons, f"{chosen_by} {said}"])


def _ablate(sampler: Sampler, plan: DrawingPlan, judge: Judge, file: Path, chosen: Candidate) -> tuple[float, float]:
    """Return the likeness with and without the trigger word. Without it, the likeness should be that of the base.
    Unrelated prompts are not sampled again, because they have no trigger word."""
    without = _draw_with(sampler, plan.of_the_concept, file, chosen.scale, plain=True)
    return chosen.scores.identity, judge.identity(without)


def _first_of_each(samples: Samples) -> list[Image.Image]:
    return [pictures[0] for pictures in samples.concept]


def to_json(evaluation: Evaluation, names: Mapping[tuple[int, float], list[str]], base: list[str]) -> dict[str, Any]:
    """The contents of evaluation.json. `names`: the images' files by step and scale; `base`: those of the base
    model."""
    judge, plan, ablation = evaluation.judge, evaluation.plan, evaluation.ablation

    def row(candidate: Candidate) -> dict[str, Any]:
        return {**asdict(candidate), "pictures": names[candidate.step, candidate.scale]}

    return {
        "verdict": asdict(evaluation.verdict),
        "chosen": row(evaluation.chosen),
        "candidates": [row(candidate) for candidate in evaluation.candidates],
        "base": asdict(judge.base),
        "base_pictures": base,
        "picture_prompts": list(plan.prompts.concept),
        "training_pictures": judge.training_pictures,
        "trigger": None if ablation is None else {"with": ablation[0], "without": ablation[1]},
        "by_concept": evaluation.by_concept,
        "reference_scale": evaluation.reference_scale,
        "measured_by": judge.measured_by,
    }
