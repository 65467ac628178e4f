"""Rebuilds the embedded base model from scratch, in order. Finished stages are skipped, interrupted ones are continued.

python -m tools.mini_base.build [--stage STAGE] [--work DIR] [--assets DIR]
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from families.loading.sources import EMBEDDED_BASE_FOLDER
from tools.mini_base import cache_latents
from tools.mini_base.assemble import assemble
from tools.mini_base.training import (
    train_decoder,
    train_image_tower,
    train_text_encoders,
    train_unet,
    train_unet_further,
    train_vae,
)
from tools.mini_base.vocabulary import make_tokenizers

WORK = Path(__file__).resolve().parents[2] / "outputs" / "mini-base-build"


@dataclass(frozen=True)
class Stage:
    """A stage of the build. It is finished when `result` exists in the work folder."""

    result: str
    run: Callable[[Path], None]


STAGES = {
    "tokenizers": Stage("tokenizer_2/tokenizer_config.json", make_tokenizers),
    "vae": Stage("vae/config.json", lambda work: train_vae.train(work, steps=train_vae.STEPS)),
    "text": Stage(
        "attribute-heads.safetensors", lambda work: train_text_encoders.train(work, steps=train_text_encoders.STEPS)
    ),
    "image-tower": Stage(
        "image-tower-finished", lambda work: train_image_tower.train(work, steps=train_image_tower.STEPS)
    ),
    "latents": Stage("latents.safetensors", cache_latents.build),
    "decoder": Stage("decoder-finished", lambda work: train_decoder.train(work, steps=train_decoder.STEPS)),
    "unet": Stage("unet-finished", lambda work: train_unet.train(work, steps=train_unet.STEPS)),
    "unet-further": Stage(
        "unet-further-finished", lambda work: train_unet_further.train(work, steps=train_unet_further.STEPS)
    ),
}


def run_stages(stages: Mapping[str, Stage], work: Path, only: str | None) -> None:
    """Run the stages that are missing in the folder `work`, in order; `only`: only this one, even if it is finished."""
    work.mkdir(parents=True, exist_ok=True)
    for name, stage in stages.items():
        if name == only or (only is None and not (work / stage.result).exists()):
            print(f"=== {name}", flush=True)
            stage.run(work)


def main() -> None:
    """Run the stages that are missing, then assemble the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=[*STAGES, "assemble"], help="only this one, even if it is finished")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--assets", type=Path, default=EMBEDDED_BASE_FOLDER)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run_stages(STAGES, arguments.work, arguments.stage)
    if arguments.stage in (None, "assemble"):
        assemble(arguments.work, arguments.assets)
        print(f"assembled in {arguments.assets}")


if __name__ == "__main__":
    main()
