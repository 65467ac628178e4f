"""Make pictures with a LoRA: `cog run`, Replicate's API, or `python predict.py "a photo of TOK" --weights FILE`.

A door: it turns inputs into a request, and hands the images back.
"""

import sys
import tempfile
from typing import Optional

from cog import BaseRunner, Input, Path

# Cog reads the signature below from the source text, without running it: types and defaults must stand there literally.


class Predictor(BaseRunner):
    """The Cog predictor. The base stays loaded; a LoRA is put on it for one request and taken off again."""

    def setup(self, weights: Optional[Path] = None) -> None:
        """`weights` (COG_WEIGHTS: a URL or a path) is the LoRA of every request that names none. Loads its base."""
        from sampler.generation import Generation
        from sampler.weights import read_trusted_weights

        self.generation = Generation()
        self.artifact = read_trusted_weights(str(weights)) if weights else None
        if self.artifact is not None:
            self.generation.prepare(self.artifact, None)

    def run(
        self,
        prompt: str = Input(description="What to draw; the LoRA's trigger word calls the concept"),
        negative_prompt: str = Input(default="", description="What should not be in the image"),
        lora: Optional[Path] = Input(default=None, description="A LoRA: weights.safetensors, file or URL"),
        replicate_weights: Optional[str] = Input(
            default=None, description="URL of a LoRA: Replicate's name for the same"
        ),
        lora_scale: float = Input(default=1.0, ge=-2, le=4, description="Strength of the LoRA: 0 none, 1 as trained"),
        base_model: Optional[str] = Input(default=None, description="By default the one that the LoRA was trained on"),
        width: Optional[int] = Input(default=None, ge=16, le=4096, description="In pixels; by default the base's own"),
        height: Optional[int] = Input(default=None, ge=16, le=4096, description="In pixels; by default the base's own"),
        num_outputs: int = Input(default=1, ge=1, le=8, description="How many images; their seeds follow each other"),
        scheduler: str = Input(
            default="base",
            choices=["base", "ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_ancestral", "heun", "unipc"],
            description="Sampler; base: the one that the base model brings along",
        ),
        num_inference_steps: int = Input(default=30, ge=1, le=500, description="Denoising steps"),
        guidance_scale: float = Input(default=6.0, ge=0, le=50, description="How strictly the prompt is followed"),
        seed: Optional[int] = Input(default=None, ge=0, description="Of the first image; by default random"),
    ) -> list[Path]:
        """Draw the images."""
        from pathlib import Path as FilePath

        from sampler.generation import save_images, with_seed
        from sampler.sampler import SampleRequest
        from sampler.weights import read_request_weights

        artifact = read_request_weights(lora, replicate_weights) or self.artifact
        request = with_seed(
            SampleRequest(
                prompt=prompt,
                negative_prompt=negative_prompt,
                num_outputs=int(num_outputs),
                scheduler=scheduler,
                width=None if width is None else int(width),
                height=None if height is None else int(height),
                num_inference_steps=int(num_inference_steps),
                guidance_scale=float(guidance_scale),
            ),
            None if seed is None else int(seed),
        )
        images = self.generation.generate(request, artifact, float(lora_scale), base_model)
        return [Path(path) for path in save_images(images, FilePath(tempfile.mkdtemp(prefix="images-")))]


if __name__ == "__main__":
    from sampler.command_line import main

    sys.exit(main())
