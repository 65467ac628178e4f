"""Tests that the workflow has the nodes, inputs and links that ComfyUI publishes: nodes.py (INPUT_TYPES, RETURN_TYPES),
and in comfy_extras nodes_sd3, nodes_flux and nodes_model_advanced (define_schema). docs/artifact.md names the versions
that the lists below were compared with."""

from typing import Any

import pytest

from families.registry import FAMILIES
from job.report.comfyui_workflow import comfyui_workflow

NODES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": "TEXT"}, ("MODEL", "CLIP", "VAE")),
    "UNETLoader": ({"unet_name": "TEXT", "weight_dtype": "TEXT"}, ("MODEL",)),
    "CLIPLoader": ({"clip_name": "TEXT", "type": "TEXT"}, ("CLIP",)),
    "DualCLIPLoader": ({"clip_name1": "TEXT", "clip_name2": "TEXT", "type": "TEXT"}, ("CLIP",)),
    "TripleCLIPLoader": ({"clip_name1": "TEXT", "clip_name2": "TEXT", "clip_name3": "TEXT"}, ("CLIP",)),
    "VAELoader": ({"vae_name": "TEXT"}, ("VAE",)),
    "LoraLoader": (
        {"model": "MODEL", "clip": "CLIP", "lora_name": "TEXT", "strength_model": "FLOAT", "strength_clip": "FLOAT"},
        ("MODEL", "CLIP"),
    ),
    "CLIPTextEncode": ({"text": "TEXT", "clip": "CLIP"}, ("CONDITIONING",)),
    "FluxGuidance": ({"conditioning": "CONDITIONING", "guidance": "FLOAT"}, ("CONDITIONING",)),
    "ModelSamplingAuraFlow": ({"model": "MODEL", "shift": "FLOAT"}, ("MODEL",)),
    "EmptyLatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)),
    "EmptySD3LatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)),
    "EmptyFlux2LatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)),
    "KSampler": (
        {
            "model": "MODEL", "seed": "INT", "steps": "INT", "cfg": "FLOAT", "sampler_name": "TEXT",
            "scheduler": "TEXT", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT",
            "denoise": "FLOAT",
        },
        ("LATENT",),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "TEXT"}, ()),
}  # fmt: skip
"""Types of inputs and outputs, by class. TEXT: a string, or a name in a list."""
CHOICES = {
    ("UNETLoader", "weight_dtype"): {"default"},
    ("CLIPLoader", "type"): {"flux2", "lumina2", "qwen_image"},
    ("DualCLIPLoader", "type"): {"flux"},
    ("KSampler", "sampler_name"): {"euler"},
    ("KSampler", "scheduler"): {"normal", "simple"},
}
"""The names that are used here, for inputs that must be a name in one of ComfyUI's lists (the last two in
comfy/samplers.py)."""
WITHOUT = {"StableCascadePriorPipeline", "StableCascadeDecoderPipeline"}
"""ComfyUI samples from the first by other nodes, in two passes. The second restores images."""
KINDS = {"TEXT": str, "INT": int, "FLOAT": int | float}


def summary(**changed: Any) -> dict[str, Any]:
    """Returns the values in report.json of a training on SDXL."""
    config = {
        "base_model": "stabilityai/stable-diffusion-xl-base-1.0", "adapter": "lora", "resolution": 1024, "seed": 7,
        "num_inference_steps": 30, "guidance_scale": 6.0, "validation_prompt": "a photo of TOK dog",
    }  # fmt: skip
    base = {"pipeline": changed.pop("pipeline", "StableDiffusionXLPipeline"), "encoders": changed.pop("encoders", [])}
    triggers, evaluation = changed.pop("triggers", ["TOK"]), changed.pop("evaluation", None)
    return {"config": config | changed, "base": base, "triggers": triggers, "evaluation": evaluation}


@pytest.mark.parametrize("encoders", [[], ["clip_l", "clip_g"]])
@pytest.mark.parametrize("pipeline", sorted(FAMILIES.keys() - WITHOUT))
def test_nodes_inputs_and_links_are_those_of_comfyui(pipeline: str, encoders: list[str]) -> None:
    workflow = comfyui_workflow(summary(pipeline=pipeline, encoders=encoders))
    assert workflow is not None
    used = set()
    for node in workflow.values():
        inputs, _ = NODES[node["class_type"]]
        assert node.keys() == {"class_type", "inputs"} and node["inputs"].keys() == inputs.keys()
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, output = value
                used.add(source)
                assert NODES[workflow[source]["class_type"]][1][output] == inputs[name]
            else:
                assert isinstance(value, KINDS[inputs[name]])
                assert value in CHOICES.get((node["class_type"], name), {value})
    assert [node["class_type"] for number, node in workflow.items() if number not in used] == ["SaveImage"]


@pytest.mark.parametrize(
    ("pipeline", "scale", "cfg", "embedded"),
    [
        ("FluxPipeline", 3.5, 1.0, 3.5),
        ("Flux2Pipeline", 4.0, 1.0, 4.0),
        ("Flux2KleinPipeline", 4.0, 4.0, None),
        ("ZImagePipeline", 4.0, 5.0, None),  # diffusers adds it to the conditional prediction, ComfyUI to the other
        ("ZImagePipeline", 0.0, 1.0, None),
        ("QwenImagePipeline", 4.0, 4.0, None),
        ("StableDiffusion3Pipeline", 0.0, 1.0, None),
    ],
)
def test_the_guidance_is_that_of_the_pipeline(pipeline: str, scale: float, cfg: float, embedded: float | None) -> None:
    workflow = comfyui_workflow(summary(pipeline=pipeline, guidance_scale=scale))
    assert workflow is not None
    inputs = {node["class_type"]: node["inputs"] for node in workflow.values()}
    assert inputs["KSampler"]["cfg"] == cfg
    assert inputs.get("FluxGuidance", {}).get("guidance") == embedded


def test_it_says_what_was_trained() -> None:
    workflow = comfyui_workflow(
        summary(encoders=["clip_l"], evaluation={"chosen": {"scale": 0.75}}, base_model="/models/my base.safetensors")
    )
    assert workflow is not None
    inputs = {node["class_type"]: node["inputs"] for node in reversed(workflow.values())}
    assert inputs["CheckpointLoaderSimple"]["ckpt_name"] == "my base.safetensors"
    assert inputs["CLIPTextEncode"]["text"] == "a photo of embedding:TOK dog"
    assert inputs["LoraLoader"]["lora_name"] == "TOK.safetensors"
    assert (inputs["LoraLoader"]["strength_model"], inputs["LoraLoader"]["strength_clip"]) == (0.75, 0.0)
    assert (inputs["KSampler"]["seed"], inputs["KSampler"]["steps"], inputs["KSampler"]["cfg"]) == (7, 30, 6.0)
    assert (inputs["EmptyLatentImage"]["width"], inputs["EmptyLatentImage"]["height"]) == (1024, 1024)


def test_the_picture_has_the_largest_of_several_resolutions() -> None:
    workflow = comfyui_workflow(summary(resolution=[512, 1024]))
    assert workflow is not None
    sizes = _inputs(workflow, "EmptyLatentImage")
    assert (sizes["width"], sizes["height"]) == (1024, 1024)


def test_without_a_new_token_the_prompt_stays_and_the_scale_is_for_both() -> None:
    workflow = comfyui_workflow(summary(triggers=[]))
    assert workflow is not None
    assert _inputs(workflow, "CLIPTextEncode")["text"] == "a photo of TOK dog"
    assert _inputs(workflow, "LoraLoader")["strength_clip"] == 1.0


def test_trained_text_encoders_have_the_scale_of_the_lora() -> None:
    workflow = comfyui_workflow(summary(encoders=["clip_l"], train_text_encoder=True))
    assert workflow is not None
    assert _inputs(workflow, "LoraLoader")["strength_clip"] == 1.0


def _inputs(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns the inputs of the first node of that class."""
    return next(node["inputs"] for node in workflow.values() if node["class_type"] == kind)


@pytest.mark.parametrize(
    "changed",
    [
        {"pipeline": "StableCascadePriorPipeline"},
        {"adapter": "full"},
        {"adapter": "none"},
        {"adapter": "controlnet"},
        {"adapter": "t-lora"},
    ],
)
def test_what_these_nodes_do_not_load_has_no_workflow(changed: dict[str, Any]) -> None:
    assert comfyui_workflow(summary(**changed)) is None
