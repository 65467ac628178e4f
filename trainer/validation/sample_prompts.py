"""The prompts of a training's samples: those of the settings, otherwise the template of every concept."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preprocess.captions.trigger import template
from preprocess.dataset import PreparedDataset
from settings.preparation import DataConfig
from settings.record import ConfigError
from settings.sections.validation import ValidationSection
from settings.training import TrainingConfig

PROMPTS = {"validation_prompt", "validation_prompts", "validation_prompts_file"}
MOST_PROMPTS = 64
"""Maximum number of prompts in a file, as in the setting."""


def sample_prompts(
    validation: ValidationSection, preparation: DataConfig, *, concepts_apart: bool = True
) -> dict[str, Any]:
    """The settings of the prompts with their defaults filled in. Raises ConfigError for a file without prompts.
    `concepts_apart`: without prompts in the settings, each of several concepts has one, and the images are divided
    among them, at least one for each.
    """
    prompts = validation.validation_prompts
    if validation.validation_prompts_file is not None:
        prompts = _prompts_of_file(validation.validation_prompts_file)
    count = validation.num_validation_images
    if concepts_apart and not prompts and validation.validation_prompt is None and len(preparation.class_words) > 1:
        prompts = _templates(preparation)[:MOST_PROMPTS]
        count = _of_each(count, len(prompts))
    first = prompts[0] if prompts else validation_prompt(validation, preparation)
    return {
        "validation_prompt": first,
        "validation_prompts": prompts,
        "validation_prompts_file": None,
        "num_validation_images": count,
    }


def prompt_notes(config: TrainingConfig) -> Iterator[str]:
    """Yield a note for each given setting of prompts if no samples are generated. An error would prevent resuming: the
    prompts of a saved configuration may be defaults."""
    if config.num_validation_images > 0:
        return
    for name in sorted(PROMPTS & config.given.keys()):
        if config.differs(name):
            yield f"{name}: no samples are generated with num_validation_images: 0; increase that, or leave {name} out"


def _templates(preparation: DataConfig) -> tuple[str, ...]:
    """The template of each concept that has a trigger word."""
    return tuple(template(preparation.concept_mode, *words) for words in preparation.class_words.items())


def _prompts_of_file(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"validation_prompts_file: {path} cannot be read ({error})") from None
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise ConfigError(f"validation_prompts_file: {path} has {len(prompts)} prompts; give 1 to {MOST_PROMPTS}")
    return prompts


def validation_prompts(validation: ValidationSection, preparation: DataConfig) -> tuple[str, ...]:
    """All prompts of the samples; the first one is also that of verification."""
    return validation.validation_prompts or (validation_prompt(validation, preparation) or "",)


def validation_prompt(validation: ValidationSection, preparation: DataConfig) -> str | None:
    """The prompt of samples and verification. None if it is a caption, because no concept has a trigger word."""
    if validation.validation_prompts:
        return validation.validation_prompts[0]
    if validation.validation_prompt is not None:
        return validation.validation_prompt
    return next(iter(_templates(preparation)), None)


def chosen_prompts(config: TrainingConfig, dataset: PreparedDataset) -> tuple[str, ...]:
    """The user's prompts of a resolved configuration, none if they are defaults: templates, or the first caption. In a
    resumed run no setting is marked as given, so a prompt is the user's if it is not the default."""
    if config.validation_prompts:
        return config.validation_prompts
    default = next(iter(_templates(config.preparation)), None)
    default = _first_caption(dataset) if default is None else default
    prompt = config.validation_prompt
    return (prompt,) if prompt and ("validation_prompt" in config.given or prompt != default) else ()


def with_prompt_of_captions(config: TrainingConfig, dataset: PreparedDataset, *, new: bool = True) -> TrainingConfig:
    """The resolved configuration with the first caption as its prompt, if there is no other; in a new run also in
    addition to the templates of other concepts, for images of a concept without a trigger word."""
    prompt = validation_prompt(config.validation, config.preparation)
    if prompt is None:
        return config.with_values({"validation_prompt": _first_caption(dataset)})
    examples = [example for example in dataset.examples if example.concept is not None]
    wordless = next((each.caption for each in examples if not each.concept and each.caption), None)
    if not new or wordless is None or config.is_controlnet or config.given.keys() & PROMPTS:
        return config
    count = config.num_validation_images
    if not config.validation_prompts:  # otherwise it is already divided
        count = _of_each(count, 2)
    prompts = (*(config.validation_prompts or (prompt,))[: MOST_PROMPTS - 1], wordless)
    return config.with_values({"validation_prompts": prompts, "num_validation_images": count})


def divided_again(given: Mapping[str, Any], saved: TrainingConfig) -> dict[str, Any]:
    """Settings given to a resumed run, without prompts of samples that are empty where the saved ones are templates of
    the concepts. Their number of samples is saved for each prompt and given in total, so it is divided here."""
    if any(given.get(name) for name in PROMPTS) or not _are_templates(saved):
        return dict(given)
    kept = {name: value for name, value in given.items() if name not in PROMPTS}
    if (pictures := kept.get("num_validation_images")) is not None:
        kept["num_validation_images"] = _of_each(pictures, len(saved.validation_prompts))
    return kept


def _are_templates(saved: TrainingConfig) -> bool:
    """Whether the prompts of a resolved configuration are those of several concepts without prompts in the settings;
    the last one is a caption if a concept has no trigger word."""
    templates, prompts = _templates(saved.preparation), saved.validation_prompts
    if len(prompts) < 2 or not templates:
        return False
    wordless = any(not concept.trigger_word for concept in saved.all_concepts)
    return prompts == templates[:MOST_PROMPTS] or (wordless and prompts[:-1] == templates[: MOST_PROMPTS - 1])


def _first_caption(dataset: PreparedDataset) -> str:
    """The first caption of the concepts' images that is not empty."""
    captions = (each.caption for each in dataset.examples if each.concept is not None)
    return next(filter(None, captions), "")


def _of_each(pictures: int, prompts: int) -> int:
    return pictures and max(1, pictures // prompts)
