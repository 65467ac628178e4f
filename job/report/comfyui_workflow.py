"""comfyui.json: a workflow for ComfyUI that draws the validation prompt with the LoRA.

It is in ComfyUI's API format, which the page of ComfyUI opens when the file is dropped there: nodes by number, whose
inputs are values or [number of a node, number of its output].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifact.metadata import trained_side
from families.lora_files import ONE_FILE_PIPELINES
from job.output_folder import OutputFolder
from job.report.usage import chosen_scale, concept_name, trained_of

ADAPTERS = ("lora", "rslora", "dora")
CHECKPOINT, LORA, POSITIVE, NEGATIVE, LATENT, SAMPLER, IMAGE, SAVED = map(str, range(1, 9))
MODEL_OUTPUT, CLIP_OUTPUT, VAE_OUTPUT = 0, 1, 2
"""Outputs of CheckpointLoaderSimple; LoraLoader has the first two."""


def write_workflow(output: OutputFolder) -> Path | None:
    """Write comfyui.json as report.json describes the training, and return its path; None without a workflow for it."""
    workflow = comfyui_workflow(json.loads(output.report.read_text(encoding="utf-8")))
    if workflow is None:
        return None
    output.workflow.write_text(json.dumps(workflow, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return output.workflow


def comfyui_workflow(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the workflow; None for bases and adapters that these nodes do not load.

    File names are those of the report's recipe; the checkpoint's is the base's name, to be chosen anew in ComfyUI.
    """
    trained, config = trained_of(summary), summary["config"]
    if trained.pipeline not in ONE_FILE_PIPELINES or trained.adapter not in ADAPTERS:
        return None
    name, scale, side = concept_name(trained), chosen_scale(summary), int(trained_side(config))
    by_embedding = bool(trained.encoders and trained.triggers)
    prompt = trained.prompt.replace(trained.triggers[0], f"embedding:{name}") if by_embedding else trained.prompt
    base = Path(trained.base_model).name
    return {
        CHECKPOINT: _node("CheckpointLoaderSimple", ckpt_name=f"{base.removesuffix('.safetensors')}.safetensors"),
        LORA: _node(
            "LoraLoader", model=[CHECKPOINT, MODEL_OUTPUT], clip=[CHECKPOINT, CLIP_OUTPUT],
            lora_name=f"{name}.safetensors", strength_model=scale, strength_clip=0.0 if by_embedding else scale,
        ),
        POSITIVE: _node("CLIPTextEncode", clip=[LORA, CLIP_OUTPUT], text=prompt),
        NEGATIVE: _node("CLIPTextEncode", clip=[LORA, CLIP_OUTPUT], text=""),
        LATENT: _node("EmptyLatentImage", width=side, height=side, batch_size=1),
        SAMPLER: _node(
            "KSampler", model=[LORA, MODEL_OUTPUT], positive=[POSITIVE, 0], negative=[NEGATIVE, 0],
            latent_image=[LATENT, 0], seed=config["seed"], steps=config["num_inference_steps"],
            cfg=config["guidance_scale"], sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        IMAGE: _node("VAEDecode", samples=[SAMPLER, 0], vae=[CHECKPOINT, VAE_OUTPUT]),
        SAVED: _node("SaveImage", images=[IMAGE, 0], filename_prefix=name),
    }  # fmt: skip


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
