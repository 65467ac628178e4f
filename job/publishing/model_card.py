"""The README of a published LoRA: what it shows, how it is called and used, and how it was trained."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from families.loading.sources import EMBEDDED_BASE, HUB_ID
from settings.sections.publishing import PublishingSection
from settings.training import TrainingConfig

DIFFUSERS_TAGS = ("text-to-image", "diffusers", "lora")
LEFT_OUT = {"base_model", "base_config", *PublishingSection.model_fields}
"""Settings that are told elsewhere in the card, or may hold a path of this machine."""


def model_card(config: TrainingConfig, triggers: Sequence[str], samples: Sequence[Path], prompt: str) -> str:
    """Markdown with the hub's header. `samples`: pictures that are published under samples/, drawn with `prompt`."""
    on_hub = HUB_ID.fullmatch(config.base_model) is not None and not Path(config.base_model).exists()
    data = ModelCardData(
        license=config.hub_license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=list(DIFFUSERS_TAGS),
        base_model=config.base_model if on_hub else None,
        instance_prompt=", ".join(triggers) or None,
    )
    base = config.base_model if on_hub or config.base_model == EMBEDDED_BASE else Path(config.base_model).name
    lines = [
        f"# {', '.join(triggers) or 'LoRA'}",
        "",
        f"A LoRA for {_code(base)}" + (f" with its own words: {', '.join(map(_code, triggers))}." if triggers else "."),
        "",
        *(f"![sample {index}](samples/{path.name})" for index, path in enumerate(samples)),
        "",
        *([f"Prompt: {_code(prompt)}", ""] if samples else []),
        "## Use",
        "",
        "`weights.safetensors` opens in ComfyUI, A1111, Forge, InvokeAI and diffusers as a LoRA; "
        "`embeddings.safetensors`, where it is there, holds the words' embeddings for tools that take them as a file.",
        "",
        "## Training",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {_code(str(value))} |" for name, value in _told_settings(config).items()),
        "",
        f"Licence: {config.hub_license}." if config.hub_license else "No licence was stated.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n", ignore_metadata_errors=False))


def _told_settings(config: TrainingConfig) -> dict[str, object]:
    chosen = config.model_dump(mode="json", exclude_defaults=True)
    told = {name: value for name, value in chosen.items() if name not in LEFT_OUT}
    always = {"max_train_steps": config.max_train_steps, "rank": config.rank, "seed": config.seed}
    return {**always, **told}


def _code(text: str) -> str:
    """The text as code, whatever it holds: user text must not become markup."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else "—"
