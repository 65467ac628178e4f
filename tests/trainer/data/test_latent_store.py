"""Tests that training with latents on disk is the same as with latents in memory, and that no files remain."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from families.family import ModelFamily
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from preprocess.prepare import prepare
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from tests.tiny_models import write_sd15
from trainer.data import latent_cache as cache
from trainer.data import latent_store
from trainer.data.latent_cache import CachedView, encode_view
from trainer.data.latent_store import StoredView, bytes_of_latents, encode_dataset, latent_place
from trainer.distributed.processes import Processes, start
from trainer.resolution import base_requirements, resolve


def config_of(base: Path, **settings: object) -> TrainingConfig:
    return TrainingConfig(
        base_model=str(base), class_word="robot", max_train_steps=3, train_batch_size=2, rank=2, num_tokens=1,
        num_validation_images=0, captioner="none", augmented_views=2, crop_jitter=0.2, validation_steps=2, **settings,
    )  # fmt: skip


def with_mask(*arguments: Any) -> CachedView:
    view = encode_view(*arguments)
    return replace(view, mask=view.moments[:1].sigmoid())


@pytest.mark.slow
def test_the_losses_are_the_same_and_the_files_are_gone(tmp_path: Path) -> None:
    base, curves = write_sd15(tmp_path / "base"), []
    for place in ("memory", "disk"):
        output = OutputFolder.create(tmp_path / place)
        events = [str(event) for event in run(config_of(base, latent_cache=place), [EXAMPLE], output)]
        assert any(f"images {'in' if place == 'memory' else 'on'} {place}" in event for event in events)
        assert not output.latents.exists()
        lines = [*output.metrics.read_text().splitlines(), *output.validation.read_text().splitlines()]
        curves.append([{key: row.get(key) for key in ("losses", "score")} for row in map(json.loads, lines)])
    assert curves[0] == curves[1]


def test_a_view_comes_back_bit_for_bit_and_auto_goes_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_sd15(tmp_path / "base")
    family: ModelFamily = load_base_model(str(base), torch.float32)
    for module in (cache, latent_store):
        monkeypatch.setattr(module, "encode_view", with_mask)
    config = resolve(config_of(base), family)
    dataset = prepare([EXAMPLE], config, tmp_path / "dataset", base_requirements(family, config, config.num_tokens))
    processes = Processes(start())
    (tmp_path / "latents").mkdir()
    stored = encode_dataset(dataset, family, "disk", tmp_path / "latents", processes)
    here = encode_dataset(dataset, family, "memory", tmp_path, processes)
    assert all(isinstance(view, StoredView) for example in stored for view in example.views)
    for view, wanted in ((a.load(), b.load()) for x, y in zip(stored, here, strict=True)
                         for a, b in zip(x.views, y.views, strict=True)):  # fmt: skip
        assert torch.equal(view.moments, wanted.moments) and view.size == wanted.size
        assert view.mask is not None and wanted.mask is not None and torch.equal(view.mask, wanted.mask)
    tensors = [
        tensor for example in here for view in example.views for tensor in (view.load().moments, view.load().mask)
    ]
    needed = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    assert bytes_of_latents(dataset, family) == pytest.approx(needed, rel=0.01)
    for free, place in ((3 * needed, "memory"), (needed, "disk")):
        monkeypatch.setattr(latent_store, "free_memory", lambda device, free=free: free)
        assert latent_place(config.latent_cache, dataset, family, processes) == place
