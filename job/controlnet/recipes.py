"""Instructions for using a ControlNet in each tool, with the values of this training (docs/controlnet.md)."""

from job.report.diffusers_recipe import has_pipeline
from job.report.recipe import Recipe, Trained


def controlnet_recipes(trained: Trained) -> list[Recipe]:
    """One for each tool that has such ControlNets."""
    pipeline = trained.pipeline.replace("Pipeline", "ControlNetPipeline")
    prompt = trained.prompt or "a photo"
    everywhere = _everywhere(trained, prompt)
    return [*everywhere, *_of_diffusers(trained, prompt, pipeline)] if has_pipeline(pipeline) else everywhere


def _everywhere(trained: Trained, prompt: str) -> list[Recipe]:
    picture = "picture that steers: edges, a scribble, whatever was trained"
    if trained.control == "faces":
        picture = "photograph whose faces are found"
    recipes = [
        Recipe(
            "Cog",
            f"condition.png is the {picture}. LoRAs go beside it.",
            f"cog run -i prompt={prompt!r} -i controlnet=URL -i control_image=@condition.png\n\n"
            f"# or without a container\npython predict.py {prompt!r} --base_model {trained.base_model} "
            "--controlnet weights.safetensors --control_image condition.png",
        ),
        Recipe(
            "ComfyUI",
            "weights.safetensors goes to models/controlnet/. Nodes: Load ControlNet Model, Apply ControlNet.",
            prompt,
        ),
    ]
    return recipes if trained.controlnet_in_comfyui else recipes[:1]


def _of_diffusers(trained: Trained, prompt: str, pipeline: str) -> list[Recipe]:
    """Where diffusers has the pipeline; A1111 and Forge know no others."""
    recipes = [
        Recipe(
            "A1111, Forge",
            "weights.safetensors goes to models/ControlNet/. Preprocessor: none, where the condition is made already.",
            prompt,
        ),
        Recipe(
            "diffusers",
            "The folder controlnet/, on the base that was trained on.",
            "\n".join(
                [
                    "import torch",
                    f"from diffusers import ControlNetModel, {pipeline}",
                    "from diffusers.utils import load_image",
                    "",
                    'controlnet = ControlNetModel.from_pretrained("controlnet", dtype=torch.float16)',
                    f"pipe = {pipeline}.from_pretrained({trained.base_model!r}, controlnet=controlnet, "
                    'dtype=torch.float16).to("cuda")',
                    f'pipe({prompt!r}, image=load_image("condition.png")).images[0].save("image.png")',
                ]
            ),
        ),
    ]
    return recipes if trained.controlnet_in_comfyui else recipes[1:]  # all three go by the sizes of real bases
