"""Opens a prepared dataset with the user's edits: captions, repeats, weights, removed lines."""

from dataclasses import replace
from pathlib import Path

from preprocess.captions.concepts import require_images
from preprocess.captions.trigger import has_trigger
from preprocess.dataset import DATASET_FILE, FACES_SUFFIX, Example, PreparedDataset, line_numbers
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements
from settings.preparation import DataConfig

ALSO_IN_TRAINING = {
    "concept_mode", "trigger_word", "class_word", "concepts", "caption_dropout", "trigger_only_dropout", "shuffle_tags",
    "keep_first_tags", "mask", "seed", "control", "control_dropout", "control_full_share",
}  # fmt: skip
"""Settings of data preparation that also apply to a training from a prepared dataset. Others have no effect then."""


def reopen(folder: Path, config: DataConfig, base: BaseRequirements) -> PreparedDataset:
    """Read the dataset and check what the user may have edited.

    Raises DatasetError, naming file and line, for values that do not suit the base or the configuration.
    """
    dataset = PreparedDataset.read(folder)
    triggers = [concept.trigger_word for concept in config.all_concepts]
    for number, example in zip(line_numbers(folder), dataset.examples, strict=True):
        where = f"{DATASET_FILE}, line {number} ({example.source})"
        if config.control != "none" and not all(view.control for view in example.views):
            raise DatasetError(
                f"{where}: has no conditioning image; prepare the images again with control: {config.control}"
            )
        if any((view.control or "").endswith(FACES_SUFFIX) != (config.control == "faces") for view in example.views):
            raise DatasetError(f"{where}: its condition is not of control: {config.control}; prepare the images again")
        _check(example, where, triggers, base)
    require_images(config.all_concepts, [(example.source, example.concept) for example in dataset.examples])
    late = config.model_fields_set & set(DataConfig.model_fields) - ALSO_IN_TRAINING
    has_masks = any(view.mask for example in dataset.examples for view in example.views)
    if "mask" in config.model_fields_set and config.mask in (["none"] if has_masks else ["face", "subject", "alpha"]):
        late |= {"mask"}
    warnings = [
        f"{name} has no effect: {folder.resolve().name} is already prepared. Prepare the images again to change it"
        for name in sorted(late)
    ]
    return replace(dataset, warnings=(*dataset.warnings, *warnings, *_long_captions(dataset, base)))


def _check(example: Example, where: str, triggers: list[str], base: BaseRequirements) -> None:
    if any(side % base.size_multiple for side in example.bucket):
        width, height = example.bucket
        raise DatasetError(
            f"{where}: {width}×{height} is not a multiple of {base.size_multiple}, which the base model needs; "
            f"prepare the images again with bucket_step: {base.size_multiple} or a multiple"
        )
    if example.concept is None:
        return
    if example.concept not in triggers:
        taught, known = _quoted(example.concept), ", ".join(map(_quoted, triggers))
        raise DatasetError(
            f"{where}: its trigger word is {taught}, and the configuration has {known}; set trigger_word to {taught}, "
            "or list it in concepts"
        )
    for caption in example.captions:
        if example.concept and not has_trigger(caption, example.concept):
            raise DatasetError(f"{where}: its caption lacks the trigger word {example.concept}: {caption!r}")


def _quoted(trigger_word: str) -> str:
    return trigger_word or '""'


def _long_captions(dataset: PreparedDataset, base: BaseRequirements) -> list[str]:
    """Warn of edited captions that exceed the token limit."""
    if base.count_tokens is None:
        return []
    counted = [(example, max(map(base.count_tokens, example.captions))) for example in dataset.largest]
    return [
        f"{example.source}: its caption has {tokens} tokens, and the text encoders read {base.most_tokens}; shorten it"
        for example, tokens in counted
        if tokens > base.most_tokens and not any("tokens" in warning for warning in example.warnings)
    ]
