"""The operator's policy for callers of the Cog service: its limits, lists and variables.

Each setting and each predictor input has a mark where it is declared (settings/callers.py). This module defines the
effect of the marks, and the environment variables that change it. docs/untrusted-callers.md has a table of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from families.loading.allowed import VARIABLE as BASES
from families.loading.sources import EMBEDDED_BASES
from preprocess.captioners.registry import CAPTIONERS
from settings.training import TrainingConfig

TRUSTED, MAY_SET, TOKENS = "TRUSTED_CALLERS", "CALLERS_MAY_SET", "CALLERS_USE_TOKENS"
HUB_TARGETS, REQUIRED_CHECKER = "ALLOWED_HUB_TARGETS", "REQUIRED_SAFETY_CHECKER"
CAPTIONER_LIST, MASK_LIST = "ALLOWED_CAPTIONERS", "ALLOWED_MASK_MODELS"
UPSCALER_LIST, EVALUATOR_LIST = "ALLOWED_UPSCALERS", "ALLOWED_EVALUATORS"

MODEL_LISTS: Mapping[str, tuple[str, ...]] = {
    BASES: (
        *EMBEDDED_BASES, "stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-refiner-1.0",
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-3.5-medium",
        "stabilityai/stable-diffusion-3.5-large", "CompVis/stable-diffusion-safety-checker",
        "madebyollin/sdxl-vae-fp16-fix", "stabilityai/sd-vae-ft-mse",
    ),
    CAPTIONER_LIST: ("none", *CAPTIONERS, *(known.model_id for known in CAPTIONERS.values())),
    MASK_LIST: (str(TrainingConfig.model_fields["mask_model"].default),),
    UPSCALER_LIST: ("caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr",),
    EVALUATOR_LIST: (
        "none", "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32", "facebook/dinov2-base",
    ),
}  # fmt: skip
"""Models that callers may name, by the variable that replaces the list."""

LIST_OF = {
    "base_model": BASES, "base_config": BASES, "vae": BASES, "refiner": BASES, "safety_checker": BASES,
    "captioner": CAPTIONER_LIST,
    "mask_model": MASK_LIST, "upscaler": UPSCALER_LIST, "evaluation_clip": EVALUATOR_LIST,
    "evaluation_dino": EVALUATOR_LIST,
}  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """A limit. `most`: its default. `settings`: those that it bounds, together or one alone.

    `left_out`: the amount of a setting that is None.
    """

    most: int
    settings: tuple[str, ...]
    what: str
    left_out: float = 0


LIMIT_PREFIX = "LIMIT_"


def _limit_of(name: str, most: int, what: str, left_out: float = 0) -> tuple[str, Limit]:
    return f"{LIMIT_PREFIX}{name.upper()}", Limit(most, (name,), what, left_out)


def _own_default(name: str, what: str) -> tuple[str, Limit]:
    return _limit_of(name, int(TrainingConfig.model_fields[name].default), what)


PIXELS, PICTURES, JOB_MINUTES = "LIMIT_PIXELS", "LIMIT_EVALUATION_PICTURES", "LIMIT_JOB_MINUTES"
EVALUATED = (
    "evaluation_scales", "evaluation_checkpoints", "evaluation_samples", "evaluation_prompts", "unrelated_prompts"
)  # fmt: skip
USUAL_STEPS = 3000
"""Largest number of steps when a training sets none (trainer/duration.py)."""
MOST_OWN_STEPS = 50
"""Largest number of denoising steps of a base when a request sets none (families.defaults)."""
USUAL_PROMPTS, USUAL_UNRELATED = 4, 6
"""Number of prompts of an evaluation when none are given."""

LIMITS: Mapping[str, Limit] = dict((
    _limit_of("max_train_steps", 10_000, "optimizer steps", USUAL_STEPS),
    _limit_of("max_train_epochs", 1_000, "epochs"),
    _limit_of("max_train_minutes", 240, "minutes of training, with what is sampled and scored between steps", math.inf),
    (JOB_MINUTES, Limit(480, (), "minutes of a whole training job, which is then stopped")),
    _limit_of("train_batch_size", 64, "images in a micro-batch"),
    _limit_of("gradient_accumulation_steps", 64, "micro-batches in a step"),
    _limit_of("rank", 256, "rank of the adapter"),
    _limit_of("text_encoder_rank", 256, "rank of the text encoders' adapter"),
    (PIXELS, Limit(2048**2, ("resolution", "width", "height"), "pixels of a training image or of a drawn one")),
    _limit_of("augmented_views", 16, "further views of an image"),
    _limit_of("concepts", 50, "concepts"),
    _limit_of("sources", 20, "further sources of images"),
    _limit_of("filters", 50, "conditions on metadata"),
    _limit_of("prior_prompts", 100, "prompts of the prior"),
    _limit_of("target_prompts", 20, "prompts that are aligned"),
    _limit_of("num_class_images", 500, "class images"),
    _limit_of("num_validation_images", 16, "samples of a prompt"),
    _limit_of("validation_prompts", 8, "prompts of samples"),
    _limit_of("num_inference_steps", 200, "denoising steps", MOST_OWN_STEPS),
    (PICTURES, Limit(1_000, EVALUATED, "pictures that an evaluation draws")),
    _limit_of("keep_checkpoints", 20, "checkpoints that stay on the disk", math.inf),
    _limit_of("num_workers", 16, "threads that prepare images"),
    _own_default("max_archive_files", "files in an archive"),
    _own_default("max_file_bytes", "bytes of a file in an archive"),
    _own_default("max_archive_bytes", "bytes of an archive, unpacked"),
    _own_default("max_compression_ratio", "compression ratio of a packed file"),
    _own_default("max_image_pixels", "pixels of an uploaded image"),
    _limit_of("num_outputs", 8, "images of a prediction"),
))  # fmt: skip
