"""Generate images with LoRAs: `cog run`, Replicate's API, or `python predict.py "a photo of TOK" --weights FILE`.

An entry point: converts inputs to a request and returns the images.
"""

import sys
from typing import Optional

from cog import BaseRunner, Input, Path

# Cog reads the signature below from the source text, without running it, so types and defaults must be literals.
# tests/service/test_entry_points.py compares it with PredictionInputs and with the command's options.


class Predictor(BaseRunner):
    """The Cog predictor. The base model stays loaded; LoRAs are applied for one request and removed afterwards."""

    def setup(self, weights: Optional[Path] = None) -> None:
        """Load `weights` (COG_WEIGHTS), the LoRAs of all requests without `lora`, and their base model."""
        from service.quick_imports import quick_imports

        with quick_imports():
            from service.cog_prediction import CogPredictions

        self.predictions = CogPredictions(str(weights) if weights else None)

    def run(
        self,
        prompt: str = Input(description="Prompt; include the LoRA's trigger word for its concept"),
        negative_prompt: str = Input(default="", description="What should not be in the image"),
        lora: Optional[str] = Input(
            default=None,
            description="LoRAs: https URLs, hub ids (owner/name, owner/name/file.safetensors) or uploads as data "
            "URIs; several separated by commas or newlines, or as a JSON list",
        ),
        replicate_weights: Optional[str] = Input(default=None, description="Replicate's name for lora"),
        lora_scale: str = Input(
            default="recommended",
            description="Scale of the LoRAs: 0 none, 1 as trained; one number for all, or a list; recommended: the "
            "scale stored in each file",
        ),
        token_strength: str = Input(
            default="1", description="Scale of the trigger words' embeddings: 0.8 for all, or TOK=0.8, ANNA=1.2"
        ),
        base_model: Optional[str] = Input(
            default=None, description="Base model; by default the one that the LoRA was trained on"
        ),
        vae: Optional[str] = Input(
            default=None,
            description="VAE that replaces the base model's: a hub id such as madebyollin/sdxl-vae-fp16-fix; by "
            "default the one that the LoRA was trained with",
        ),
        image: Optional[Path] = Input(default=None, description="Input image for image to image"),
        mask: Optional[Path] = Input(
            default=None, description="Mask of the input image: white areas are generated, black areas are kept"
        ),
        strength: float = Input(
            default=0.8, ge=0, le=1, description="How much the input image is changed: 1 completely"
        ),
        width: Optional[int] = Input(
            default=None,
            ge=16,
            le=4096,
            description="Width in pixels; by default that of the input image or the base model's native one",
        ),
        height: Optional[int] = Input(
            default=None,
            ge=16,
            le=4096,
            description="Height in pixels; by default that of the input image or the base model's native one",
        ),
        aspect_ratio: str = Input(
            default="native",
            choices=["native", "1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"],
            description="Ratio of width to height, instead of both; native: that of the input image, or the base "
            "model's",
        ),
        num_outputs: int = Input(default=1, ge=1, le=8, description="Number of images; their seeds are consecutive"),
        scheduler: str = Input(
            default="base",
            choices=["base", "ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_ancestral", "heun", "unipc"],
            description="Sampler; base: the base model's own",
        ),
        num_inference_steps: Optional[int] = Input(
            default=None,
            ge=1,
            le=500,
            description="Denoising steps; by default the base model's own number, such as 30",
        ),
        guidance_scale: Optional[float] = Input(
            default=None,
            ge=0,
            le=50,
            description="How closely the prompt is followed; by default the base model's own value, such as 6",
        ),
        guidance_rescale: float = Input(
            default=0.0,
            ge=0,
            le=1,
            description="Rescaling against overexposure by guidance: 0 none; usually 0.7 for base models with zero "
            "terminal SNR",
        ),
        clip_skip: int = Input(
            default=0, ge=0, le=11, description="Number of last layers of the CLIP encoders to skip"
        ),
        seed: Optional[int] = Input(
            default=None, ge=0, description="Seed of the first image, up to 2^64 - 1; by default random"
        ),
        go_fast: bool = Input(
            default=False,
            description="Compute matrix products in fp8: faster on GPUs that support it, with slightly different "
            "images",
        ),
        output_format: str = Input(default="png", choices=["png", "webp", "jpg"], description="Format of the files"),
        output_quality: int = Input(default=90, ge=1, le=100, description="Quality of webp and jpg"),
        refiner: Optional[str] = Input(
            default=None,
            description="SDXL: a second model for the last steps: a hub id such as "
            "stabilityai/stable-diffusion-xl-refiner-1.0, or a folder; by default none",
        ),
        refiner_start: float = Input(
            default=0.8,
            ge=0,
            le=1,
            description="Fraction of the schedule that the base model denoises before the refiner",
        ),
        safety_checker: Optional[str] = Input(
            default=None,
            description="Withhold images that this checker flags: a hub id such as "
            "CompVis/stable-diffusion-safety-checker, or a folder; by default none",
        ),
        controlnet: Optional[str] = Input(
            default=None,
            description="ControlNet: https URL, hub id (owner/name, owner/name/file.safetensors) or upload as data "
            "URI; by default none",
        ),
        control_image: Optional[Path] = Input(
            default=None,
            description="Conditioning image of the ControlNet (edges, a scribble); for inpainting, transparent in the "
            "area to generate; for faces, a photograph",
        ),
        control_scale: float = Input(
            default=1.0, ge=0, le=2, description="Scale of the ControlNet: 0 none, 1 as trained"
        ),
    ) -> list[Path]:
        """Generate the images. The files contain their parameters; seed and progress are metrics and log lines."""
        from service.prediction_inputs import PredictionInputs

        inputs = PredictionInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            lora=lora,
            replicate_weights=replicate_weights,
            lora_scale=lora_scale,
            token_strength=token_strength,
            base_model=base_model,
            vae=vae,
            image=image,
            mask=mask,
            strength=strength,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            num_outputs=num_outputs,
            scheduler=scheduler,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            clip_skip=clip_skip,
            seed=seed,
            go_fast=go_fast,
            output_format=output_format,
            output_quality=output_quality,
            refiner=refiner,
            refiner_start=refiner_start,
            safety_checker=safety_checker,
            controlnet=controlnet,
            control_image=control_image,
            control_scale=control_scale,
        )
        return [Path(path) for path in self.predictions.predict(inputs)]


if __name__ == "__main__":
    from service.predict_command import main

    sys.exit(main())
