"""Rebuilds mini-flow from the VAE and the cached latents of mini-sdxl's build, in order. Finished stages are skipped,
interrupted ones are continued.

python -m tools.mini_flow.build [--stage STAGE] [--work DIR] [--base-work DIR] [--assets DIR]
"""

import argparse
from pathlib import Path

import torch

from tools.mini_base.build import WORK as BASE_WORK
from tools.mini_base.build import Stage, run_stages
from tools.mini_flow import captions, train
from tools.mini_flow.assemble import ASSETS, assemble
from tools.mini_flow.vocabulary import make_tokenizer

WORK = BASE_WORK.with_name("mini-flow-build")


def main() -> None:
    """Run the stages that are missing, then assemble the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    choices = [*stages(BASE_WORK, 0), "assemble"]
    parser.add_argument("--stage", choices=choices, help="only this one, even if it is finished")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--base-work", type=Path, default=BASE_WORK, help="the work folder of tools.mini_base.build")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--steps", type=int, default=train.STEPS, help="of the training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run_stages(stages(arguments.base_work, arguments.steps), arguments.work, arguments.stage)
    if arguments.stage in (None, "assemble"):
        assemble(arguments.work, arguments.base_work / "vae", arguments.assets)
        print(f"assembled in {arguments.assets}")


def stages(base_work: Path, steps: int) -> dict[str, Stage]:
    """All stages, which use the results of mini-sdxl's build in `base_work`."""
    latents = base_work / "latents.safetensors"
    return {
        "tokenizer": Stage("tokenizer/tokenizer_config.json", make_tokenizer),
        "captions": Stage("captions.json", captions.build),
        "flow": Stage("flow-finished", lambda work: train.train(work, latents, steps)),
    }


if __name__ == "__main__":
    main()
