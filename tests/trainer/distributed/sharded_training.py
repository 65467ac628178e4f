"""Runs one of several processes that train a tiny SD3 whose transformer is sharded:
`torchrun … -m tests.trainer.distributed.sharded_training BASE RESULT SETTINGS`.

The main process writes the result of `sharded_curve` on every process.
"""

import json
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor

from artifact.layers import Layer
from families.family import ModelFamily
from families.parts.blocks import repeated_blocks
from families.registry import load_base_model
from job.verification.verify import Probe
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from tests.families.golden_curves import cached_examples, curve_config
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.distributed.launch import leave
from trainer.distributed.processes import Processes, start
from trainer.distributed.sharded_base import Base, place_base
from trainer.distributed.synchronized_steps import synchronized_steps
from trainer.resolution import resolve

WHOLE_BATCH = 4
SETTINGS: dict[str, Any] = {
    "max_train_steps": 4,
    "caption_dropout": 0.4,
    "prior_matching_weight": 0.5,
    "prior_prompts": ("a red star", "two blue circles", "a green square"),
}


def sharded_config(base: str, processes: int, **changes: Any) -> TrainingConfig:
    """Returns settings with the same total batch size for any number of processes."""
    return curve_config(
        base, train_batch_size=WHOLE_BATCH // processes, shard_base=processes > 1, **(SETTINGS | changes)
    )


FULL: dict[str, Any] = {
    "adapter": "full",
    "rank": 16,
    "alpha": None,
    "learning_rate": 1e-4,
    "train_text_encoder": True,
    "ema_decay": 0.9,
    "lr_warmup_steps": 0,
    "prior_matching_interval": 1,
    "prior_matching_on": "everything",
}
"""Changes of the settings for full fine-tuning."""


def sharded_curve(base_model: str, folder: Path, accelerator: Accelerator, **changes: Any) -> dict[str, Any]:
    """Trains on this process, and returns the following.

    `curve`: losses and gradient norms of every step. `held`, `gathered` and `left`: shares of the denoiser's bytes,
    after every step: those that this process stores, those that its layers had in their passes, and those of the latter
    that are still allocated. `alive`: the number of loaded weights that exist after sharding. `alone`: errors of
    `alone_passes`, of the return to a checkpoint in `folder`, and of the base model after the training.
    """
    processes = Processes(accelerator)
    family = load_base_model(base_model, torch.float32)
    config = resolve(sharded_config(base_model, processes.share.count, **changes), family)
    probe = Probe.make(family, "a picture")
    wanted = probe.predict(family, {})
    whole = sum(parameter.nbytes for parameter in family.denoiser.parameters())
    loaded = [weakref.ref(parameter) for parameter in family.denoiser.parameters()]
    blocks = list(repeated_blocks(family.denoiser))
    base = place_base(config.shard_base, family, processes)
    alive = sum(each() is not None for each in loaded)
    alone: list[str] = []
    with base.main_only():
        if processes.is_main:
            alone += alone_passes(family, probe, wanted, blocks[-1], base)
    training = build_training(
        config, family, PreparedDataset(Path(), (), (), ()), cached_examples(), accelerator, base=base
    )
    curve, held, gathered, left = [], [], [], []
    seen = watch(family)
    with base.main_only():
        for step in synchronized_steps(training.trainer, processes, base):
            curve.append({**step.losses, **{f"norm of {key}": norm for key, norm in step.gradient_norms.items()}})
            held.append(own_bytes(family) / whole)
            gathered.append(sum(nbytes for nbytes, _ in seen.values()) / whole)
            storages = {storage._cdata: storage.nbytes() for _, storage in seen.values()}
            left.append(sum(storages.values()) / whole)
            if processes.is_main:
                probe.predict(family, training.triggers)
            if processes.is_main and step.number == 2:
                checkpoint, then = Checkpoints(folder).write(training), training.parts.layers()
        if processes.is_main:
            restore(training, read_checkpoint(checkpoint))
            if not _equal(training.parts.layers(), then):
                alone.append("the return to a checkpoint gives other weights")
            training.remove()
        if processes.is_main and not torch.equal(probe.predict(family, {}), wanted):
            alone.append("after the training the base is another one")
        if processes.is_main and config.shard_base:
            interrupted_pass(family, probe, blocks[-1])
    return {"curve": curve, "held": held, "gathered": gathered, "left": left, "alive": alive, "alone": alone}


def alone_passes(
    family: ModelFamily, probe: Probe, wanted: Tensor, last_block: torch.nn.Module, base: Base
) -> Iterator[str]:
    """Return the errors of passes in main-only mode; one of them runs out of memory in the last block."""

    def overflow(module: torch.nn.Module, inputs: Any) -> None:
        raise torch.OutOfMemoryError("full (a pretence)")

    with torch.inference_mode():
        if not torch.equal(probe.predict(family, {}), wanted):
            yield "in inference mode a pass gives something else"
    hook = last_block.register_forward_pre_hook(overflow)
    try:
        probe.predict(family, {})
        yield "nothing ran out of memory"
    except torch.OutOfMemoryError:
        hook.remove()
    if not torch.equal(probe.predict(family, {}), wanted):
        yield "after one that failed a pass gives something else"
    features = family.encode_prompts([""] * len(probe.timesteps))
    try:
        family.denoise(probe.noised, probe.timesteps, features, probe.sizes)
        if type(base).__name__ == "ShardedBase":
            yield "gradients of one process alone are not refused"
    except RuntimeError as error:
        if "a single process cannot run" not in str(error):
            raise


def interrupted_pass(family: ModelFamily, probe: Probe, last_block: Any) -> None:
    """Interrupt a pass between the announcement of a block, which the other ranks follow, and its gathering."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    last_block.unshard = interrupted
    try:
        probe.predict(family, {})
    except KeyboardInterrupt:
        del last_block.unshard


def own_bytes(family: ModelFamily) -> int:
    """Return the bytes of this process's shards of the denoiser's own weights."""
    own = [parameter for name, parameter in family.denoiser.named_parameters() if not _is_of_adapter(name)]
    parts = [each.to_local() if isinstance(each, DTensor) else each for each in own]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def _equal(found: Mapping[str, Layer], wanted: Mapping[str, Layer]) -> bool:
    return found.keys() == wanted.keys() and all(
        torch.equal(*pair)
        for name, layer in found.items()
        for pair in zip(layer.parameters, wanted[name].parameters, strict=True)
    )


def _is_of_adapter(name: str) -> bool:
    return "lora_" in name


def watch(family: ModelFamily) -> dict[str, tuple[int, torch.UntypedStorage]]:
    """Returns a dict that passes with gradients fill: for each of the denoiser's own weights, its bytes in the pass and
    their storage."""
    seen: dict[str, tuple[int, torch.UntypedStorage]] = {}

    def look(path: str, module: torch.nn.Module) -> None:
        for name, weight in module.named_parameters(recurse=False):
            if not _is_of_adapter(f"{path}.{name}") and torch.is_grad_enabled():
                seen[f"{path}.{name}"] = (weight.nbytes, weight.untyped_storage())

    for path, module in family.denoiser.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, path=path: look(path, module))
    return seen


if __name__ == "__main__":
    joined = start()
    result = Path(sys.argv[2])
    found = gather_object([sharded_curve(sys.argv[1], result.parent / "two", joined, **json.loads(sys.argv[3]))])
    if Processes(joined).is_main:
        result.write_text(json.dumps(found), encoding="utf-8")
    joined.end_training()
    leave(0)
