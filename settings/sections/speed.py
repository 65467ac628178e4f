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
    """Compilation, what memory is saved, and where latents and the base lie."""

    compile: Open[Literal["never", "auto", "always"]] = Field(
        "never",
        description="Compile the denoiser's repeated blocks: always; auto: on a GPU, where the steps left take 5 "
        "minutes or more",
    )
    compile_cache: Operator[Path | None] = Field(
        None, description="Folder that keeps what was compiled for later runs; by default torch's own, in /tmp"
    )

    attention: Open[AttentionName] = Field(
        "auto",
        description="How the denoiser's attention is computed while it trains: by one of torch's implementations or by "
        "xformers; auto: as torch chooses for the device",
    )
    allow_tf32: Open[bool] = Field(
        True,
        description="Round products in fp32 to TF32's 10 bits on cards that have it (30xx, A100 and later), which is "
        "several times as fast",
    )
    cuda_graphs: Open[Literal["auto", "never"]] = Field(
        "auto",
        description="Record the denoiser's passes on a GPU and launch each as a whole; auto: where all of a shape "
        "are alike",
    )
    gradient_checkpointing: Open[Literal["never", "auto", "always"]] = Field(
        "auto",
        description="Compute the denoiser's activations again in the backward pass instead of keeping them: less "
        "memory, more time; auto: when not even one image fits",
    )

    base_precision: Open[BasePrecisionName] = Field(
        "auto",
        description="How the frozen weights of the denoiser's blocks are stored: bf16 (as they are loaded), fp8 or "
        "int8 (half of it) or nf4 (a quarter), for lora, rslora and none; auto: on a GPU the first of bf16, int8, nf4 "
        "that fits",
    )
    offload: Open[Literal["never", "auto", "always"]] = Field(
        "auto",
        description="Keep these weights in main memory and copy each to the GPU when it is used, which is slow; auto: "
        "when they fit in no other way",
    )

    latent_cache: Open[LatentCacheName] = Field(
        "auto", description="Storage of the cached latents; auto: on disk if they take half of the free memory"
    )

    shard_base: Open[bool] = Field(
        False,
        description="Each of several processes keeps a part of the denoiser's weights (FSDP2) instead of all, with "
        "adapter: full also of their optimizer state; `accelerate launch --use_fsdp --fsdp_version 2` sets it",
    )

    @model_validator(mode="after")
    def _compile_rules(self) -> "SpeedSection":
        if self.compile_cache is not None and self.compile == "never":
            raise ValueError("compile_cache has no effect with compile: never; set compile: auto, or leave it out")
        return self
