"""comfyui.json: a workflow for ComfyUI that generates the validation prompt with the LoRA.

It is in ComfyUI's API format, which ComfyUI opens when the file is dropped on its page: nodes by number, with inputs
that are values or [number of a node, number of its output].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifact.metadata import trained_side
from families.loading.comfyui import ComfyBase, comfy_base
from job.output_folder import OutputFolder, write_whole
from job.report.recipe import Trained
from job.report.usage import (
    COMFYUI,
    chosen_scale,
    clip_strength,
    concept_name,
    is_supported,
    trained_of,
    with_embeddings,
)

ADAPTERS = ("lora", "rslora", "dora")
"""Adapters with a workflow, if ComfyUI supports them on the base model."""
LOADERS = {1: "CLIPLoader", 2: "DualCLIPLoader", 3: "TripleCLIPLoader"}
"""Loader nodes, by the number of text encoders in separate files."""
LEAST_CFG = 1.0
"""The value of cfg without guidance. At 0 the sampler would follow the negative prompt."""
Link = list[Any]
"""The number of a node, and of its output."""


class Graph:
    """The nodes of a workflow, numbered as they are added."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, **inputs: Any) -> str:
        """Add a node, and return its number."""
        number = str(len(self.nodes) + 1)
        self.nodes[number] = {"class_type": kind, "inputs": inputs}
        return number

    def link(self, kind: str, **inputs: Any) -> Link:
        """Add a node, and return a link to its first output."""
        return [self.add(kind, **inputs), 0]


def write_workflow(output: OutputFolder) -> Path | None:
    """Write comfyui.json for the training in report.json, and return its path; None if there is no workflow for it."""
    workflow = comfyui_workflow(json.loads(output.report.read_text(encoding="utf-8")))
    if workflow is None:
        return None
    write_whole(output.workflow, json.dumps(workflow, indent=2, ensure_ascii=False) + "\n")
    return output.workflow


def comfyui_workflow(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the workflow; None for base models and adapters that these nodes do not load.

    The LoRA's file has the name in the report's recipe. The file of the base model is named after the model, and its
    other parts have ComfyUI's names; the user selects their files in ComfyUI.
    """
    trained, config = trained_of(summary), summary["config"]
    base = comfy_base(trained.pipeline)
    if base is None or trained.adapter not in ADAPTERS or not is_supported(trained, COMFYUI):
        return None
    name, scale, side = concept_name(trained), chosen_scale(summary), int(trained_side(config))
    by_embedding = bool(trained.encoders and trained.triggers)
    prompt = with_embeddings(trained, "embedding:") if by_embedding else trained.prompt
    graph = Graph()
    model, clip, vae = _loaded(graph, base, trained)
    lora = graph.add(
        "LoraLoader", model=model, clip=clip, lora_name=f"{name}.safetensors", strength_model=scale,
        strength_clip=clip_strength(trained, scale) if by_embedding else scale,
    )  # fmt: skip
    model, clip = [lora, 0], [lora, 1]
    if base.shift is not None:
        model = graph.link("ModelSamplingAuraFlow", model=model, shift=base.shift)
    wanted = graph.link("CLIPTextEncode", clip=clip, text=prompt)
    unwanted = graph.link("CLIPTextEncode", clip=clip, text="")
    guidance = float(config["guidance_scale"])
    if base.guidance == "embedded":
        wanted = graph.link("FluxGuidance", conditioning=wanted, guidance=guidance)
        guidance = LEAST_CFG
    latents = graph.link(
        "KSampler", model=model, positive=wanted, negative=unwanted,
        latent_image=graph.link(base.latents, width=side, height=side, batch_size=1), seed=config["seed"],
        steps=config["num_inference_steps"], cfg=max(LEAST_CFG, guidance + base.cfg_offset), sampler_name="euler",
        scheduler=base.schedule, denoise=1.0,
    )  # fmt: skip
    image = graph.link("VAEDecode", samples=latents, vae=vae)
    graph.add("SaveImage", images=image, filename_prefix=name)
    return graph.nodes


def _loaded(graph: Graph, base: ComfyBase, trained: Trained) -> tuple[Link, Link, Link]:
    """Add the loaders, and return links to denoiser, text encoders and VAE."""
    file = f"{Path(trained.base_model).name.removesuffix('.safetensors')}.safetensors"
    if base.vae is None:
        checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name=file)
        model, clip, vae = ([checkpoint, output] for output in range(3))
    else:
        model = graph.link("UNETLoader", unet_name=file, weight_dtype="default")
        vae = graph.link("VAELoader", vae_name=base.vae)
        clip = []
    if base.encoders:
        several = len(base.encoders) > 1
        files = {f"clip_name{number if several else ''}": name for number, name in enumerate(base.encoders, start=1)}
        clip = graph.link(LOADERS[len(base.encoders)], **files, **({"type": base.kind} if base.kind else {}))
    return model, clip, vae
