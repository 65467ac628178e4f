"""Tests of the operator's list of allowed base models, for requests and for the headers of LoRA files."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifact.artifact import Artifact
from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.allowed import VARIABLE, require_allowed
from families.registry import load_base_model
from sampler.generation import Generation
from tests.artifact.test_artifact import make_artifact


@pytest.mark.parametrize(
    ("allowed", "text", "fits"),
    [
        ("", "/etc", True),
        ("mini-sdxl", "mini-sdxl", True),
        ("mini-sdxl", "mini", False),
        ("stabilityai/*, mini-sdxl", "stabilityai/stable-diffusion-xl-base-1.0", True),
        ("stabilityai/*, mini-sdxl", "Stabilityai/other", False),
        ("mini-sdxl\n/models/*", "runwayml/sd", False),
        ("{folder}/good/*", "{folder}/good/base", True),
        ("{folder}/good/*", "{folder}/good/../secret", False),
        ("{folder}/good/*", "{folder}/good/link", False),
        ("{folder}/good/*", "{folder}/good/missing/../../secret", False),
        ("owner/*", "owner/name", False),
    ],
)
def test_the_list(allowed: str, text: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last case, a folder in the working directory with a name like a hub id is a path."""
    for name in ("good/base", "secret", "owner/name"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "good/link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path)
    folder = os.path.realpath(tmp_path)
    monkeypatch.setenv(VARIABLE, allowed.format(folder=folder))
    if fits:
        require_allowed("base_model", text.format(folder=folder))
        return
    with pytest.raises(BaseModelError, match="is not one of the base models that the operator allows"):
        require_allowed("base_model", text.format(folder=folder))


def test_neither_a_request_nor_a_file_opens_another_base(
    base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "mini-sdxl")
    artifact = make_artifact(base)
    assert artifact.description is not None
    foreign = Artifact({}, {}, replace(artifact.description, base_model=str(tmp_path)))
    for described, asked in ((None, str(tmp_path)), (foreign, None), (None, None)):
        with pytest.raises(BaseModelError, match=r"operator allows \(ALLOWED_BASE_MODELS\): mini-sdxl"):
            Generation(lambda line: None).prepare(described, asked)
    with pytest.raises(BaseModelError, match="base_config: .* operator allows"):
        load_base_model("mini-sdxl", torch.float32, base_config=str(tmp_path))
