"""The prompts of an evaluation: the concept in new scenes, and unrelated prompts.

The subject prompts are like DreamBench's (Ruiz et al. 2023, supplementary material): new places, and new looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from families.loading.sources import EMBEDDED_BASES
from preprocess.dataset import PreparedDataset
from sampler.prompts.plain_words import with_plain_words, words_in
from settings.record import ConfigError

SUBJECT_PROMPTS = (
    "a photo of {trigger} on the beach",
    "a photo of {trigger} in the snow",
    "a photo of {trigger} on top of a wooden floor with a city in the background",
    "a painting of {trigger} in the style of Monet",
)
STYLE_PROMPTS = (
    "a house by a lake in the style of {trigger}",
    "a portrait of a woman in the style of {trigger}",
    "a red bicycle in the style of {trigger}",
    "a cat on a sofa in the style of {trigger}",
)
EMBEDDED_PROMPTS = (
    "a photo of {trigger}",
    "a photo of {trigger} on a green background",
    "a photo of {trigger} on a yellow background",
    "a photo of {trigger} on a purple background",
)
"""Prompts for the embedded base model, which was only trained on synthetic objects and coloured backgrounds."""
UNRELATED_PROMPTS = (
    "a bowl of fruit on a kitchen table",
    "a mountain lake at sunrise",
    "an old steam train crossing a bridge",
    "a busy street in the rain at night",
    "a field of sunflowers under a cloudy sky",
    "an astronaut on the moon",
)
EMBEDDED_UNRELATED_PROMPTS = (
    "a photo of a large black arrow in the center on a red background",
    "a photo of a large light green triangle at the bottom on a grey background",
    "a photo of an outlined yellow diamond in the center on a purple background",
    "a photo of a light purple ring on the left on a light blue background",
    "a photo of a large brown cross on the left on a black background",
    "a photo of a large dark green square on the right on a dark red background",
)
"""Held-out scenes of `tools.mini_base.scenes`, which were not in the base's training data."""
PLAIN_WORDS = {"face": "person", "object": "object", "style": "painting"}
"""Replacements of the trigger if there is no class word."""


@dataclass(frozen=True)
class PromptSet:
    """`concept`: prompts with trigger words. `plain`: the same with class words. `unrelated`: prompts without the
    concept."""

    concept: tuple[str, ...]
    plain: tuple[str, ...]
    unrelated: tuple[str, ...]


def prompt_set(
    base_model: str,
    concept_mode: str,
    class_words: Mapping[str, str | None],
    concept: Sequence[str] = (),
    unrelated: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> PromptSet:
    """Return the prompts for a base and its concepts. `concept`, `unrelated`: used instead of the defaults. `{trigger}`
    in a prompt is replaced by the first trigger word. Without trigger words, the defaults are some of the `captions`.

    Raises ConfigError if every default of `unrelated` contains a trigger word.
    """
    embedded = base_model in EMBEDDED_BASES
    usual: tuple[str, ...] = (
        EMBEDDED_PROMPTS if embedded else STYLE_PROMPTS if concept_mode == "style" else SUBJECT_PROMPTS
    )
    if not class_words:
        usual = _spread(captions)
    trigger = next(iter(class_words), "")
    prompts = tuple(prompt.replace("{trigger}", trigger) for prompt in concept or usual)
    plain = tuple(plain_words(prompt, concept_mode, class_words) for prompt in prompts)
    scenes = EMBEDDED_UNRELATED_PROMPTS if embedded else UNRELATED_PROMPTS
    without = tuple(scene for scene in scenes if not words_in(scene, tuple(class_words)))
    if not (unrelated or without):
        words = ", ".join(class_words)
        raise ConfigError(f"unrelated_prompts: each default one contains a trigger word ({words}); give others")
    return PromptSet(prompts, plain, tuple(unrelated) or without)


def captions_of(dataset: PreparedDataset) -> list[str]:
    """The different captions of the concepts' images."""
    return list(dict.fromkeys(example.caption for example in dataset.examples if example.concept is not None))


def _spread(captions: Sequence[str]) -> tuple[str, ...]:
    """As many captions as there are default prompts, evenly spaced; at least one, which may be empty."""
    count = min(len(captions), len(SUBJECT_PROMPTS))
    return tuple(captions[index * len(captions) // count] for index in range(count)) or ("",)


def plain_words(prompt: str, concept_mode: str, class_words: Mapping[str, str | None]) -> str:
    """Replace every trigger word by its class word, or by a general word for the concept mode."""
    return with_plain_words(
        prompt, {trigger: word or PLAIN_WORDS[concept_mode] for trigger, word in class_words.items()}
    )
