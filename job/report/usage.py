"""Instructions for using the artifact in each tool, with the values of this training (docs/artifact.md)."""

from collections.abc import Mapping
from typing import Any

from families.loading.comfyui import comfy_base
from families.parts.placeholder_tokens import expand_triggers
from job.controlnet.recipes import controlnet_recipes
from job.embedding_files import file_names
from job.report.diffusers_recipe import diffusers_recipe, has_pipeline
from job.report.recipe import PLAIN_LORA, Recipe, Trained, conversion, shell_text
from job.restoring.recipes import restoring_recipes

COMFYUI, A1111 = "ComfyUI", "A1111, Forge"
SUPPORTED = ("lora", "rslora", "loha", "lokr", "full")
"""Adapters whose files ComfyUI, A1111 and Forge apply as they were trained (docs/artifact.md)."""
NO_LORA = "none"
OWN = ("Cog", "Replicate")
"""Recipes of the predictor of this repository."""


def recipes(trained: Trained, scale: float) -> list[Recipe]:
    """Return one recipe for each tool."""
    if trained.restores:
        return restoring_recipes()
    if trained.adapter == "controlnet":
        return controlnet_recipes(trained)
    prompt, name = trained.prompt, concept_name(trained)
    own = Recipe(
        "Cog",
        f"The predictor reads {'the trigger word and ' if trained.triggers else ''}the scale from the file.",
        f"cog run -i prompt={shell_text(prompt)} -i lora=@weights.safetensors\n\n# or without a container\n"
        f"python predict.py {shell_text(prompt)} --weights weights.safetensors",
    )
    own_ones = [own, _of_replicate(prompt)]
    if trained.adapter == "perfusion":
        return own_ones  # no other tool opens the file
    return [
        *own_ones,
        *_of_interfaces(trained, name, scale),
        *([diffusers_recipe(trained, scale)] if has_pipeline(trained.pipeline) else []),
    ]


def recipes_of_report(summary: Mapping[str, Any]) -> list[Recipe]:
    """Return the recipes for the training that report.json describes."""
    return recipes(trained_of(summary), chosen_scale(summary))


def chosen_scale(summary: Mapping[str, Any]) -> float:
    """Return the scale that evaluation recommends in report.json; 1 without evaluation."""
    evaluation = summary.get("evaluation")
    return float(evaluation["chosen"]["scale"]) if evaluation else 1.0


def concept_name(trained: Trained) -> str:
    """Return the name of the files of the concept: its trigger word, without characters that file names lack."""
    return next(iter(file_names(trained.triggers).values()), "TOK")


def trained_of(summary: Mapping[str, Any]) -> Trained:
    """Return the facts in report.json."""
    config, base = summary["config"], summary["base"]
    return Trained(
        base_model=config["base_model"],
        pipeline=base["pipeline"],
        encoders=base["encoders"],
        adapter=config["adapter"],
        triggers=summary["triggers"],
        prompt=config["validation_prompt"],
        revision=config.get("base_revision"),
        vae=config.get("vae"),
        restores=base.get("restores", False),
        controlnet_in_comfyui=base.get("controlnet_in_comfyui", True),
        control=config.get("control", "none"),
        text_encoders=config.get("train_text_encoder", False),
    )


def _of_replicate(prompt: str) -> Recipe:
    """The predictor of this repository as a model on Replicate."""
    return Recipe(
        "Replicate",
        "Push the predictor once: cog push r8.im/OWNER/MODEL. It downloads weights.safetensors by hub id, such as "
        "that of push_to_hub, or from an https URL.",
        f'import replicate\n\nimages = replicate.run(\n    "OWNER/MODEL",\n    input={{"prompt": {prompt!r}, '
        '"lora": "OWNER/NAME"},\n)',
    )


def _of_interfaces(trained: Trained, name: str, scale: float) -> list[Recipe]:
    """Return the recipes for ComfyUI and, if diffusers has the base model's pipeline, for A1111 and Forge."""
    found = _by_embedding(trained, name, scale) if trained.encoders else _by_word(trained, name, scale)
    return found if has_pipeline(trained.pipeline) else [each for each in found if each.tool == COMFYUI]


def is_supported(trained: Trained, tool: str) -> bool:
    """Whether ComfyUI, or A1111 and Forge, apply the file as it was trained."""
    if trained.adapter == "dora" and tool == COMFYUI:
        base = comfy_base(trained.pipeline)
        return base is not None and base.magnitudes
    return trained.adapter in SUPPORTED


def _file_for(trained: Trained, tool: str) -> tuple[str, str]:
    """Return the name of the file for a tool, and a note on how to make it, empty for the file of the training."""
    return (
        ("weights.safetensors", "") if is_supported(trained, tool) else (PLAIN_LORA, f"{conversion(tool, trained)}. ")
    )


def _by_word(trained: Trained, name: str, scale: float) -> list[Recipe]:
    """Return the recipes for a trigger that is an ordinary word, or an existing token of the base model."""
    file, first = _file_for(trained, COMFYUI)
    other, before = _file_for(trained, A1111)
    return [
        Recipe(
            COMFYUI,
            f"{first}{file} goes to models/loras/{name}.safetensors. Node: Load LoRA, strength_model {scale:g}.",
            trained.prompt,
            as_it_is=not first,
        ),
        Recipe(
            A1111,
            f"{before}{other} goes to models/Lora/{name}.safetensors.",
            f"{trained.prompt} <lora:{name}:{scale:g}>",
            as_it_is=not before,
        ),
    ]


def _by_embedding(trained: Trained, name: str, scale: float) -> list[Recipe]:
    """Return the recipes in which the names of embedding files replace the trigger words."""
    clip = clip_strength(trained, scale)
    several = len(trained.triggers) > 1
    files, target = ("the files of embeddings/", "") if several else ("embeddings.safetensors", f"{name}.safetensors")
    words = (
        "names of the embeddings instead of the trigger words"
        if several
        else ("name of the embedding instead of the trigger word")
    )
    in_comfyui, in_a1111 = with_embeddings(trained, "embedding:"), with_embeddings(trained)
    if trained.adapter == NO_LORA:
        go = "go" if several else "goes"
        return [
            Recipe(COMFYUI, f"{files} {go} to models/embeddings/{target}.", in_comfyui, as_it_is=False),
            Recipe(A1111, f"{files} {go} to embeddings/{target}. Use the {words}.", in_a1111, as_it_is=False),
        ]
    file, first = _file_for(trained, COMFYUI)
    other, before = _file_for(trained, A1111)
    return [
        Recipe(
            COMFYUI,
            f"{first}{file} goes to models/loras/{name}.safetensors, {files} to models/embeddings/{target}. "
            f"Node: Load LoRA, strength_model {scale:g}, strength_clip {clip:g}.",
            in_comfyui,
            as_it_is=not first,
        ),
        Recipe(
            A1111,
            f"{before}{other} goes to models/Lora/{name}_lora.safetensors, {files} to embeddings/{target}. Use the "
            f"{words}.",
            f"{in_a1111} <lora:{name}_lora:{scale:g}>",
            as_it_is=not before,
        ),
    ]


def with_embeddings(trained: Trained, prefix: str = "") -> str:
    """Return the prompt with the names of embedding files, after `prefix`, instead of the trigger words."""
    names = file_names(trained.triggers)
    return expand_triggers(trained.prompt, {trigger: [f"{prefix}{name}"] for trigger, name in names.items()})


def clip_strength(trained: Trained, scale: float) -> float:
    """Return the scale of the text encoders' layers; 0 if the file has none."""
    return scale if trained.text_encoders else 0.0
