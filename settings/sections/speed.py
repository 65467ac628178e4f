"""Speed and memory."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Open, Operator
from settings.record import Settings

LatentCacheName = Literal["auto", "memory", "disk"]
BasePrecisionName = Literal["auto", "bf16", "fp8", "int8", "nf4"]
AttentionName = Literal["auto", "flash", "efficient", "cudnn", "math", "xformers"]


class SpeedSection(Settings):
    """Compilation, memory, and the storage of latents and the base model."""

    compile: Open[Literal["never", "auto", "always"]] = Field(
        "never",
        description="Compile the denoiser's repeated blocks: always; auto: on a GPU, if the remaining steps take 5 "
        "minutes or more",
    )
    compile_cache: Operator[Path | None] = Field(
        None, description="Folder that stores compiled code for later runs; by default torch's own, in /tmp"
    )

    attention: Open[AttentionName] = Field(
        "auto",
        description="Implementation of the denoiser's attention in training: one of torch's implementations, or "
        "xformers; auto: torch's choice for the device",
    )
    allow_tf32: Open[bool] = Field(
        True,
        description="Round inputs of fp32 products to TF32 (10 bits) on GPUs that support it (30xx, A100 and later), "
        "which is several times as fast",
    )
    cuda_graphs: Open[Literal["auto", "never"]] = Field(
        "auto",
        description="Capture the denoiser's passes on a GPU as CUDA graphs; auto: if all passes of a shape are alike",
    )
    gradient_checkpointing: Open[Literal["never", "auto", "always"]] = Field(
        "auto",
        description="Recompute the denoiser's activations in the backward pass instead of storing them: less memory, "
        "more time; auto: if otherwise not even one image fits",
    )

    base_precision: Open[BasePrecisionName] = Field(
        "auto",
        description="Storage of the frozen weights of the denoiser's blocks: bf16 (as loaded), fp8 or int8 (half of "
        "the memory) or nf4 (a quarter), for lora, rslora and none; auto: on a GPU the first of bf16, int8, nf4 that "
        "fits",
    )
    offload: Open[Literal["never", "auto", "always"]] = Field(
        "auto",
        description="Keep the frozen weights of the denoiser's blocks in main memory and copy each to the GPU for its "
        "use, which is slow; auto: if they do not fit otherwise",
    )

    latent_cache: Open[LatentCacheName] = Field(
        "auto", description="Storage of the cached latents; auto: on disk if they would take half of the free memory"
    )

    shard_base: Open[bool] = Field(
        False,
        description="Each of several processes stores only a part of the denoiser's weights (FSDP2), and with adapter "
        "full of their optimizer state; `accelerate launch --use_fsdp --fsdp_version 2` sets it",
    )

    @model_validator(mode="after")
    def _compile_rules(self) -> "SpeedSection":
        if self.compile_cache is not None and self.compile == "never":
            raise ValueError("compile_cache has no effect with compile: never; set compile: auto, or leave it out")
        return self
