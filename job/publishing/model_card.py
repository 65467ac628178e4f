"""Writes the model card of a published LoRA: content, trigger words, usage, training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from families.loading.sources import HUB_ID
from settings.public import public_name, public_settings
from settings.record import Settings
from settings.sections.publishing import PublishingSection

DIFFUSERS_TAGS = ("text-to-image", "diffusers")
LORA = "LoRA"
ALL_TOOLS = ("ComfyUI", "A1111", "Forge", "InvokeAI", "diffusers")
KINDS = {"controlnet": "ControlNet", "full": "fine-tuned model", "none": "set of token embeddings"}
"""The kind of model by adapter; all others are LoRAs."""
ALWAYS_LISTED = ("max_train_steps", "rank", "seed")
LEFT_OUT = {"base_model", "base_config", *PublishingSection.model_fields}
"""Settings that the card lists elsewhere."""


@dataclass(frozen=True)
class CardFacts:
    """The facts of a training for the model card. `prompts`: one for each sample; empty if the samples have captions
    as prompts, which are not published. `settings`: shown values by name.

    `kind`: the kind of model. `tools`: other tools that open it. `base_licence`: the licence of the base model's
    weights, if it restricts their use.
    """

    base_model: str
    triggers: Sequence[str]
    prompts: Sequence[str]
    settings: Mapping[str, object]
    kind: str = LORA
    tools: Sequence[str] = ALL_TOOLS
    base_licence: str | None = None


def listed_settings(config: Settings) -> dict[str, object]:
    """Return the settings that differ from the defaults, and the most important ones."""
    everything = public_settings(config)
    chosen = public_settings(config, exclude_defaults=True)
    listed = {name: value for name, value in chosen.items() if name not in LEFT_OUT}
    return {**{name: everything[name] for name in ALWAYS_LISTED}, **listed}


def model_card(facts: CardFacts, license: str | None, samples: Sequence[Path]) -> str:
    """Return Markdown with the hub's header. `samples`: images that are published under samples/."""
    triggers, base = facts.triggers, public_name(facts.base_model)
    on_hub = base == facts.base_model and HUB_ID.fullmatch(base) is not None
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[*DIFFUSERS_TAGS, *([LORA.lower()] if facts.kind == LORA else [])],
        base_model=base if on_hub else None,
        instance_prompt=", ".join(triggers) or None,
    )
    lines = [
        f"# {', '.join(map(_code, triggers)) or facts.kind}",
        "",
        f"A {facts.kind} for {_code(base)}"
        + (f" with the trigger words {', '.join(map(_code, triggers))}." if triggers else "."),
        "",
        *_samples(facts.prompts, samples),
        "## Use",
        "",
        f"`weights.safetensors` opens in {_tools(facts.tools)}; "
        "`embeddings.safetensors`, if there is one, contains the trigger words' embeddings for tools that load them "
        "from a file.",
        "",
        "## Training",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {_code(str(value))} |" for name, value in facts.settings.items()),
        "",
        f"Licence: {license}." if license else "No licence is given.",
        *(["", f"Licence of the base model: {facts.base_licence}."] if facts.base_licence else []),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n", ignore_metadata_errors=False))


def _samples(prompts: Sequence[str], samples: Sequence[Path]) -> Iterator[str]:
    """Yield the images, and after those of one prompt a line with it."""
    given = [*prompts, *[""] * len(samples)][: len(samples)]
    for prompt, row in groupby(enumerate(samples), key=lambda pair: given[pair[0]]):
        yield from (f"![sample {index}](samples/{path.name})" for index, path in row)
        yield from ("", *([f"Prompt: {_code(prompt)}", ""] if prompt else []))


def _tools(names: Sequence[str]) -> str:
    if not names:
        return "the trainer's own predictor only"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _code(text: str) -> str:
    """Format user text as inline code, so that it cannot become markup."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else "—"
