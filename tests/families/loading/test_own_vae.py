"""Tests of `vae`, which replaces the base model's own VAE: its sources, and errors if it does not match the base."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from huggingface_hub import constants
from safetensors.torch import save_file

from artifact.artifact import Artifact
from artifact.metadata import ArtifactDescription
from families.errors import BaseModelError
from families.registry import load_base_model
from sampler.generation import Generation
from service.cog_prediction import CallerPermissions
from service.policy.policy import NotAllowed, Policy
from tests.families.loading.single_files import write_single_file
from tests.fast_part import slow_but
from tests.tiny_models import opened, tiny_vae, write_flux2, write_sdxl

COMMITS = {"main": "a" * 40, "v2": "b" * 40}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("own-vae") / "base")


def trained_on(base: Path) -> AutoencoderKL:
    """Return the base's VAE with a small random change of its weights, as after further training."""
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    with torch.no_grad():
        for number, weight in enumerate(vae.parameters()):
            generator = torch.Generator().manual_seed(number)
            weight.add_(0.02 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator))
    return vae


def as_folder(base: Path, target: Path) -> Path:
    trained_on(base).save_pretrained(target)
    return target


def within_a_base(base: Path, target: Path) -> Path:
    trained_on(base).save_pretrained(target / "vae")
    return target


def as_file(base: Path, target: Path) -> Path:
    save_file(trained_on(base).state_dict(), target.with_suffix(".safetensors"))
    return target.with_suffix(".safetensors")


def in_a_checkpoint(base: Path, target: Path) -> Path:
    """Write a whole base model as a single file with the original names, which contains the changed VAE."""
    family = opened(base)
    family.pipeline().register_modules(vae=trained_on(base))
    return write_single_file(family, target.with_suffix(".safetensors"))


@pytest.mark.parametrize("write", slow_but([as_folder], [as_folder, within_a_base, as_file, in_a_checkpoint]))
def test_it_encodes_and_decodes(write: Callable[[Path, Path], Path], base: Path, tmp_path: Path) -> None:
    place = write(base, tmp_path / "vae")
    family, plain, wanted = load_base_model(str(base), torch.float32, vae=str(place)), opened(base), trained_on(base)
    assert family.pipeline().vae is family.vae
    own = plain.vae.state_dict()
    for name, weight in family.vae.state_dict().items():
        torch.testing.assert_close(weight, wanted.state_dict()[name])
    assert any(not torch.equal(weight, own[name]) for name, weight in family.vae.state_dict().items())
    picture = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(family.encode_image(picture), plain.encode_image(picture))
    assert not any(weight.requires_grad for weight in family.vae.parameters())


def pickled(base: Path, target: Path) -> Path:
    target.with_suffix(".ckpt").write_bytes(b"x")
    return target.with_suffix(".ckpt")


def damaged(base: Path, target: Path) -> Path:
    target.with_suffix(".safetensors").write_bytes(b"x" * 20)
    return target.with_suffix(".safetensors")


def lora_file(base: Path, target: Path) -> Path:
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 3)}, target.with_suffix(".safetensors"))
    return target.with_suffix(".safetensors")


def saved(vae: AutoencoderKL, target: Path) -> Path:
    vae.save_pretrained(target)
    return target


def another(base: Path, target: Path) -> Path:
    torch.manual_seed(99)
    return saved(tiny_vae(), target)


def more_channels() -> AutoencoderKL:
    return AutoencoderKL.from_config(dict(tiny_vae().config) | {"latent_channels": 8})


def file_of_more_channels(base: Path, target: Path) -> Path:
    save_file(more_channels().state_dict(), target.with_suffix(".safetensors"))
    return target.with_suffix(".safetensors")


def empty(base: Path, target: Path) -> Path:
    target.mkdir()
    return target


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "pickle": (pickled, "is not a .safetensors file. Pickled"),
    "damaged": (damaged, "is not a readable .safetensors file"),
    "a lora": (lora_file, "is not a VAE for this base model: decoder.conv_in.bias is missing"),
    "nothing": (lambda base, target: target, "is neither an existing folder"),
    "empty": (empty, "contains neither config.json nor vae/config.json"),
    "channels": (
        lambda base, target: saved(more_channels(), target),
        "another layout than those of the base model: latent_channels is 8 instead of 4",
    ),
    "scale": (
        lambda base, target: saved(tiny_vae(scaling_factor=0.13025), target),
        "scaling_factor is 0.13025 instead of 0.18215",
    ),
    "reduction": (
        lambda base, target: saved(
            AutoencoderKL(block_out_channels=(8,), layers_per_block=1, latent_channels=4, norm_num_groups=4), target
        ),
        "reduction is 1 instead of 4",
    ),
    "class": (
        lambda base, target: write_flux2(target) / "vae",
        "is a AutoencoderKLFlux2, but the base model needs a AutoencoderKL",
    ),
    "latents": (another, "has another latent space than the base model: the correlation .* is 0"),
    "file": (
        file_of_more_channels,
        r"is not a VAE for this base model: decoder.conv_in.weight is \(16, 8, 3, 3\), but \(16, 4, 3, 3\) in",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_match_is_refused(case: str, base: Path, tmp_path: Path) -> None:
    write, said = REFUSED[case]
    with pytest.raises(BaseModelError, match=f"^vae: .*{said}"):
        load_base_model(str(base), torch.float32, vae=str(write(base, tmp_path / "vae")))


def trained_with(base: Path, **config: str) -> Artifact:
    description = ArtifactDescription("sdxl", str(base), "f", "epsilon", {}, 1, config=dict(config))
    return Artifact({}, {}, description)


def test_the_predictor_takes_the_vae_of_the_training(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    place, generation = as_folder(base, tmp_path / "vae"), Generation(said.append)
    weight = "decoder.conv_in.weight"
    wanted, own = trained_on(base).state_dict()[weight], opened(base).vae.state_dict()[weight]
    drawn_with = generation.prepare(trained_with(base, vae=str(place)), None).family.vae
    assert torch.equal(drawn_with.state_dict()[weight], wanted) and not said
    elsewhere = trained_with(base, vae="vae")  # of a path, the header only contains the name
    assert torch.equal(generation.prepare(elsewhere, None).family.vae.state_dict()[weight], own)
    assert said == [
        "warning: vae: the LoRA was trained with vae, which was not found; using the base model's own VAE. "
        "Set vae to the path of that file or folder"
    ]
    with pytest.raises(BaseModelError, match=r"^vae: '/nowhere' is neither .*sdxl-vae-fp16-fix$"):
        generation.prepare(elsewhere, None, vae="/nowhere")
    given = generation.prepare(elsewhere, None, vae=str(place)).family.vae
    assert torch.equal(given.state_dict()[weight], wanted) and len(said) == 1


@pytest.mark.parametrize(("name", "value"), [("vae", "someone/vae"), ("base_revision", "refs/pr/1")])
def test_a_header_opens_nothing_to_callers(name: str, value: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRUSTED_CALLERS", raising=False)
    permissions = CallerPermissions(Policy.from_environment(), frozenset({str(base)}))
    generation = Generation(lambda line: None, permissions)
    with pytest.raises(NotAllowed, match=f"^{name}: "):
        generation.prepare(trained_with(base, **{name: value}), None)


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up a hub cache without network access: a base model with two revisions, and a repository of a VAE."""
    repository = tmp_path / "models--someone--base"
    for revision, commit in COMMITS.items():
        folder = repository / "snapshots" / commit
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(base, folder) if revision == "main" else write_sdxl(folder, prediction_type="v_prediction")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    alone = tmp_path / "models--someone--vae"
    trained_on(base).save_pretrained(alone / "snapshots" / COMMITS["main"])
    (alone / "refs").mkdir()
    (alone / "refs" / "main").write_text(COMMITS["main"])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("revision", "predicts"), [(None, "epsilon"), ("v2", "v_prediction"), (COMMITS["v2"], "v_prediction")]
)
def test_a_revision_of_the_hub(revision: str | None, predicts: str, hub: None) -> None:
    family = load_base_model("someone/base", torch.float32, base_revision=revision)
    assert family.noise_process.prediction_type == predicts


@pytest.mark.parametrize("vae", ["someone/vae", "someone/base"])
def test_a_vae_of_the_hub(vae: str, hub: None, base: Path) -> None:
    """The repository may contain a VAE only, or a whole base model."""
    found = load_base_model(str(base), torch.float32, vae=vae).vae.state_dict()
    wanted = trained_on(base) if vae == "someone/vae" else opened(base).vae
    assert all(torch.equal(found[name], weight) for name, weight in wanted.state_dict().items())


def test_there_are_revisions_on_the_hub_alone(hub: None, base: Path) -> None:
    with pytest.raises(BaseModelError, match=r"^base_revision: .* is a local folder, .* leave it out"):
        load_base_model(str(base), torch.float32, base_revision="main")
    with pytest.raises(BaseModelError, match="cannot load 'someone/base' from the hub"):
        load_base_model("someone/base", torch.float32, base_revision="v3")
