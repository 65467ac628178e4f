"""Instructions for using a ControlNet in each tool, with the values of this training (docs/controlnet.md)."""

from shlex import quote

from job.report.diffusers_recipe import has_pipeline
from job.report.recipe import Recipe, Trained, shell_text


def controlnet_recipes(trained: Trained) -> list[Recipe]:
    """Return one recipe for each tool that supports such ControlNets."""
    pipeline = trained.pipeline.replace("Pipeline", "ControlNetPipeline")
    prompt = trained.prompt or "a photo"
    everywhere = _everywhere(trained, prompt)
    return [*everywhere, *_of_diffusers(trained, prompt, pipeline)] if has_pipeline(pipeline) else everywhere


def _everywhere(trained: Trained, prompt: str) -> list[Recipe]:
    picture = "conditioning image: edges, a scribble, as in training"
    if trained.control == "faces":
        picture = "photograph whose faces are detected"
    recipes = [
        Recipe(
            "Cog",
            f"condition.png is the {picture}. LoRAs can be added.",
            f"cog run -i prompt={shell_text(prompt)} -i controlnet=URL -i control_image=@condition.png\n\n"
            f"# or without a container\npython predict.py {shell_text(prompt)} "
            f"--base_model {quote(trained.base_model)} "
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
    """Return the recipes for base models with a pipeline in diffusers. A1111 and Forge support no others."""
    recipes = [
        Recipe(
            "A1111, Forge",
            "weights.safetensors goes to models/ControlNet/. Preprocessor: none, if the image is already a "
            "conditioning image.",
            prompt,
        ),
        Recipe(
            "diffusers",
            "The folder controlnet/, with the base model of the training.",
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
            as_it_is=False,
        ),
    ]
    return (
        recipes if trained.controlnet_in_comfyui else recipes[1:]
    )  # all three detect models by the sizes of real base models
