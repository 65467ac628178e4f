"""Train a LoRA and its trigger word: `cog train`, Replicate's training API, or `python train.py DATA`.

An entry point: converts inputs to a TrainingConfig, runs the job and returns the result.
"""

import sys
from typing import Optional

from cog import BaseModel, Input, Path, Secret

# Cog reads the signature below from the source text, without running it, so types and defaults must be literals.
# tests/service/test_entry_points.py compares it with TrainingConfig.


class TrainingOutput(BaseModel):
    """`weights` is the artifact; the other files are returned only with `return_extras`, and `embeddings` only if
    tokens were trained."""

    weights: Path
    embeddings: Optional[Path] = None
    report: Optional[Path] = None
    samples: Optional[list[Path]] = None


class Trainer:
    """The Cog trainer. Each training runs in a separate process, so that a crash or a cancellation does not affect the
    server."""

    def setup(self) -> None:
        """Check the operator's environment variables, and start the warm processes that they request."""
        from service.policy.policy import Policy
        from service.processes.base_keeper import KEPT_BASES, first_base
        from service.processes.warm_worker import prepare_where_wanted

        Policy.from_environment()
        base = first_base()
        prepare_where_wanted()
        KEPT_BASES.keep(base)

    def run(self) -> str:
        """Cog requires this method of every class; trainings use `train`."""
        raise RuntimeError("this is the trainer: POST to /trainings, or serve predict.py:Predictor for images")

    def train(
        self,
        input_images: Path = Input(description="Zip or tar of training images, with captions if there are any"),
        base_model: str = Input(
            default="stabilityai/stable-diffusion-xl-base-1.0",
            description="Base model: mini-sdxl (embedded), a hub id, a folder or a .safetensors file",
        ),
        concept_mode: str = Input(
            default="object", choices=["face", "object", "style"], description="What the images show"
        ),
        trigger_word: str = Input(
            default="TOK",
            description="New word for the concept in prompts; empty: none, captions are trained as they are",
        ),
        class_word: Optional[str] = Input(default=None, description="Class of the concept: dog, woman, watercolour"),
        captioner: str = Input(
            default="florence-2",
            description="Model that captions images without a caption: florence-2, blip, blip-2, qwen3-vl, glm-4v, "
            "joycaption, smolvlm, cogvlm, a hub id, or none for a template",
        ),
        resolution: Optional[int] = Input(
            default=None,
            ge=32,
            le=4096,
            description="Side in pixels of a square of the training area; by default the base model's native "
            "resolution. Several by config: resolution: [512, 768, 1024]",
        ),
        max_train_steps: Optional[int] = Input(
            default=None,
            ge=1,
            le=1000000,
            description="Optimizer steps; by default each image is trained about 100 times",
        ),
        train_batch_size: Optional[int] = Input(
            default=None,
            ge=1,
            le=1024,
            description="Images per micro-batch; by default 4, or all if there are fewer",
        ),
        rank: int = Input(default=16, ge=1, le=1024, description="Rank of the LoRA"),
        learning_rate: Optional[float] = Input(
            default=None,
            ge=0,
            le=10,
            description="Peak learning rate of the adapter; by default 1e-4, and 1 with Prodigy",
        ),
        token_learning_rate: Optional[float] = Input(
            default=None,
            ge=0,
            le=10,
            description="Peak learning rate of the tokens; by default 1e-3, and 1 with Prodigy; 0: not trained",
        ),
        num_tokens: int = Input(
            default=2, ge=0, le=64, description="Number of new tokens in each text encoder; 0: an ordinary word"
        ),
        validation_prompt: Optional[str] = Input(default=None, description="Prompt of the samples after training"),
        seed: int = Input(default=0, ge=0, description="Seed of all random generators of the training"),
        config: Optional[str] = Input(
            default=None, description="YAML or JSON with any other setting of TrainingConfig"
        ),
        preset: Optional[str] = Input(
            default=None, description="Preset, such as sdxl-face; inputs and config override its settings"
        ),
        preservation_data: Optional[Path] = Input(
            default=None, description="Zip or tar of images without the concept that preserve the base model's prior"
        ),
        hf_token: Optional[Secret] = Input(
            default=None,
            description="Your token, to publish the result of this training with push_to_hub; never stored",
        ),
        wandb_api_key: Optional[Secret] = Input(
            default=None, description="Your key, to log this training to Weights & Biases; never stored"
        ),
        return_extras: bool = Input(
            default=False, description="Also return the embeddings, the report and the samples"
        ),
    ) -> TrainingOutput:
        """Train, check the result, and return it."""
        from pages.pictures import numbered_pictures
        from service.cog_training import train_in_child_process
        from service.training_request import TrainingRequest

        request = TrainingRequest(
            input_images=input_images,
            base_model=base_model,
            concept_mode=concept_mode,
            trigger_word=trigger_word,
            class_word=class_word,
            captioner=captioner,
            resolution=resolution,
            max_train_steps=max_train_steps,
            train_batch_size=train_batch_size,
            rank=rank,
            learning_rate=learning_rate,
            token_learning_rate=token_learning_rate,
            num_tokens=num_tokens,
            validation_prompt=validation_prompt,
            seed=seed,
            config=config,
            preset=preset,
            preservation_data=preservation_data,
            hf_token=hf_token,
            wandb_api_key=wandb_api_key,
        )
        files = train_in_child_process(request)
        if not return_extras:
            return TrainingOutput(weights=Path(files.weights))
        return TrainingOutput(
            weights=Path(files.weights),
            embeddings=Path(files.embeddings) if files.embeddings.exists() else None,  # none without tokens
            report=Path(files.report),
            samples=[Path(sample) for sample in numbered_pictures(files.samples)],
        )


if __name__ == "__main__":
    from service.train_command import main

    sys.exit(main())
