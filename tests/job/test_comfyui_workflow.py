"""The workflow has the nodes, inputs and links that ComfyUI publishes (nodes.py, INPUT_TYPES and RETURN_TYPES)."""

from typing import Any

import pytest

from job.report.comfyui_workflow import comfyui_workflow

NODES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": "TEXT"}, ("MODEL", "CLIP", "VAE")),
    "LoraLoader": (
        {"model": "MODEL", "clip": "CLIP", "lora_name": "TEXT", "strength_model": "FLOAT", "strength_clip": "FLOAT"},
        ("MODEL", "CLIP"),
    ),
    "CLIPTextEncode": ({"text": "TEXT", "clip": "CLIP"}, ("CONDITIONING",)),
    "EmptyLatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)),
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
KINDS = {"TEXT": str, "INT": int, "FLOAT": int | float}


def summary(**changed: Any) -> dict[str, Any]:
    """What report.json says of a training on SDXL."""
    config = {
        "base_model": "stabilityai/stable-diffusion-xl-base-1.0", "adapter": "lora", "resolution": 1024, "seed": 7,
        "num_inference_steps": 30, "guidance_scale": 6.0, "validation_prompt": "a photo of TOK dog",
    }  # fmt: skip
    base = {"pipeline": changed.pop("pipeline", "StableDiffusionXLPipeline"), "encoders": changed.pop("encoders", [])}
    triggers, evaluation = changed.pop("triggers", ["TOK"]), changed.pop("evaluation", None)
    return {"config": config | changed, "base": base, "triggers": triggers, "evaluation": evaluation}


@pytest.mark.parametrize("encoders", [[], ["clip_l", "clip_g"]])
def test_nodes_inputs_and_links_are_those_of_comfyui(encoders: list[str]) -> None:
    workflow = comfyui_workflow(summary(encoders=encoders))
    assert workflow is not None
    for node in workflow.values():
        inputs, _ = NODES[node["class_type"]]
        assert node.keys() == {"class_type", "inputs"} and node["inputs"].keys() == inputs.keys()
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, output = value
                assert NODES[workflow[source]["class_type"]][1][output] == inputs[name]
            else:
                assert isinstance(value, KINDS[inputs[name]])


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
    sizes = workflow["5"]["inputs"]
    assert (sizes["width"], sizes["height"]) == (1024, 1024)


def test_without_a_new_token_the_prompt_stays_and_the_scale_is_for_both() -> None:
    workflow = comfyui_workflow(summary(triggers=[]))
    assert workflow is not None
    assert workflow["3"]["inputs"]["text"] == "a photo of TOK dog"
    assert workflow["2"]["inputs"]["strength_clip"] == 1.0


@pytest.mark.parametrize(
    "changed",
    [
        {"pipeline": "FluxPipeline"},
        {"adapter": "full"},
        {"adapter": "none"},
        {"adapter": "controlnet"},
        {"adapter": "t-lora"},
    ],
)
def test_what_these_nodes_do_not_load_has_no_workflow(changed: dict[str, Any]) -> None:
    assert comfyui_workflow(summary(**changed)) is None
