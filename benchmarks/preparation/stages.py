"""CPU time of each stage of one shard: the functions are timed in one thread of this process."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from families.family import ModelFamily
from families.registry import load_base_model
from preprocess.crops.views import Renderer
from preprocess.uploads.intake import Unpack
from preprocess.uploads.survey import Look
from settings.preparation import DataConfig
from settings.record import build_settings
from trainer.data import feature_encoding
from trainer.resolution import base_requirements

NUM_TOKENS = 2
ENCODE_VIEW, ENCODE_IMAGE = "read the written picture", "encode to latents"
OWN_THREAD = {"num_workers": 0}
"""Without a thread pool, so that the CPU time of the thread is that of the stage."""


def stages_of_a_shard(shard: Path, side: int, base_model: str) -> dict[str, Any]:
    """CPU milliseconds per image of each stage, and in total; "rest": finding captions, names, the record."""
    torch.set_num_threads(1)
    family = load_base_model(base_model, torch.float32)
    options = {"captioner": "none", "resolution": side, "class_word": "photograph", "max_extra_crop": 0.0}
    config = build_settings(DataConfig, options)
    base = base_requirements(family, config, NUM_TOKENS)
    spent: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, _timed_stages(family, spent):
        start = time.thread_time()
        record = feature_encoding.encode_shard(
            0, str(shard), config.model_copy(update=OWN_THREAD), base, family, Path(folder)
        )
        whole = time.thread_time() - start
    count = len(record.examples)
    spent[ENCODE_VIEW] -= spent[ENCODE_IMAGE]  # it is included in the former
    milliseconds = {f"{name} ms": round(1000 * seconds / count, 2) for name, seconds in spent.items()}
    rest = round(1000 * (whole - sum(spent.values())) / count, 2)
    return {"side": side, "images": count} | milliseconds | {"rest ms": rest, "CPU ms": round(1000 * whole / count, 2)}


@contextmanager
def _timed_stages(family: ModelFamily, spent: dict[str, float]) -> Iterator[None]:
    stages: tuple[tuple[Any, str, str], ...] = (
        (Unpack, "__call__", "unpack"),
        (Look, "__call__", "inspect, preview"),
        (Renderer, "_render", "crop, resize, save"),
        (feature_encoding, "encode_view", ENCODE_VIEW),
        (family, "encode_image", ENCODE_IMAGE),
        (feature_encoding, "save_file", "write features"),
    )
    with ExitStack() as patches:
        for owner, function, name in stages:
            patches.enter_context(patch.object(owner, function, _timed(getattr(owner, function), name, spent)))
        yield


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    """The function; its CPU seconds are added to `spent`."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] += time.thread_time() - start

    return call
