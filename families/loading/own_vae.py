"""Loads a VAE that replaces the base model's: a hub id, a folder, or a single file.

The denoiser was trained for one latent space. A VAE is accepted only if its latents have the same layout as those of
the base's VAE and, for a test image, nearly the same values, as for VAEs fine-tuned from it (sdxl-vae-fp16-fix).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.opening import LOADING_ERRORS
from families.loading.sources import HUB_ID, LONGEST_NAME
from fetching.errors import DownloadError
from fetching.hub_connection import require_hub

PART, CONFIG = "vae", "config.json"
LAYOUT = (
    "latent_channels", "z_dim", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "patch_size",
    "batch_norm_eps",
)  # fmt: skip
"""Entries of a VAE's configuration that affect the values of latents."""
LEAST_LIKENESS = 0.8
"""Lowest accepted correlation of the test image's latents with those of the base's VAE."""
TEST_SIDES = 4
"""Width and height of the test image, in units of the smallest side that the base encodes."""


@dataclass(frozen=True)
class VaeSource:
    """A located VAE. `subfolder`: where the weights are in a folder or hub model."""

    name: str
    kind: Literal["folder", "file", "hub"]
    location: str
    subfolder: str | None = None


def find_vae(vae: str) -> VaeSource:
    """Locate the value of the setting `vae`. Raises BaseModelError for what cannot be a VAE."""
    path = Path(os.path.expanduser(vae))
    if os.path.isdir(path):
        for folder, subfolder in ((path, None), (path / PART, PART)):
            if (folder / CONFIG).is_file():
                return VaeSource(vae, "folder", str(path), subfolder)
        raise BaseModelError(f"vae: the folder {vae} contains neither {CONFIG} nor {PART}/{CONFIG} of a VAE")
    if os.path.isfile(path):
        if path.suffix != ".safetensors":
            raise BaseModelError(
                f"vae: {vae} is not a .safetensors file. Pickled files (.ckpt, .pt, .bin) can run code when they are "
                "opened, so they are refused: convert the file to safetensors."
            )
        return VaeSource(vae, "file", str(path))
    if HUB_ID.fullmatch(vae) and path.suffix != ".safetensors":
        return VaeSource(vae, "hub", vae)
    raise BaseModelError(
        f"vae: {vae[:LONGEST_NAME]!r} is neither an existing folder or .safetensors file nor a hub id such as "
        "madebyollin/sdxl-vae-fp16-fix"
    )


def use_vae(family: ModelFamily, vae: str) -> None:
    """Replace the base model's VAE, on the CPU and in its dtype. Raises BaseModelError for a VAE that cannot be loaded
    or has another latent space, and for a base model without a VAE."""
    if family.vae is None:
        raise BaseModelError(
            f"vae: base models of the family {family.name} have no VAE that can be replaced; leave it out"
        )
    source, own = find_vae(vae), family.vae
    made = _from_file(source, own) if source.kind == "file" else _from_layout(source, own)
    made.to(own.dtype).eval().requires_grad_(False)
    _require_same_layout(vae, own, made)
    family.vae = made
    _require_same_latents(vae, family, own)
    family.pipeline().register_modules(vae=made)


def _from_layout(source: VaeSource, own: Any) -> Any:
    """Load from a folder or hub model: a VAE, or that of a whole base."""
    if source.kind == "hub":
        try:
            require_hub(source.location, CONFIG)
        except DownloadError as error:
            raise BaseModelError(f"vae: {error}") from error
    places = (None, PART) if source.kind == "hub" else (source.subfolder,)
    for place in places:
        options = {} if place is None else {"subfolder": place}
        try:
            config = type(own).load_config(source.location, **options)
            _require_same_class(source, own, config)
            return type(own).from_pretrained(source.location, torch_dtype=own.dtype, use_safetensors=True, **options)
        except LOADING_ERRORS as error:
            if isinstance(error, BaseModelError):
                raise
            missing = isinstance(error.__cause__ or error.__context__, EntryNotFoundError)
            if missing and place != places[-1]:
                continue
            reason = " ".join(str(error).split())
            raise BaseModelError(f"vae: cannot load {source.name!r}: {type(error).__name__}: {reason}") from error
    raise AssertionError


def _require_same_class(source: VaeSource, own: Any, config: Mapping[str, Any]) -> None:
    found = config.get("_class_name")
    if found != type(own).__name__:
        raise BaseModelError(f"vae: {source.name} is a {found}, but the base model needs a {type(own).__name__}")


def _from_file(source: VaeSource, own: Any) -> Any:
    """Read a single file, with diffusers' or the original names. It has no configuration, so that of the base's VAE is
    used."""
    try:
        tensors = load_file(source.location)
    except (SafetensorError, OSError) as error:
        raise BaseModelError(f"vae: {source.name} is not a readable .safetensors file ({error})") from error
    made = type(own).from_config(own.config)
    expected = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    named = _by_diffusers_names(tensors, expected, own)
    different = sorted(name for name in expected if name not in named or tuple(named[name].shape) != expected[name])
    if different:
        name = different[0]
        found = tuple(named[name].shape) if name in named else "missing"
        raise BaseModelError(
            f"vae: {source.name} is not a VAE for this base model: {name} is {found}, but {expected[name]} in the base "
            "model's VAE"
        )
    made.load_state_dict({name: named[name] for name in expected})
    return made


def _by_diffusers_names(
    tensors: Mapping[str, Tensor], expected: Mapping[str, object], own: Any
) -> Mapping[str, Tensor]:
    if expected.keys() <= tensors.keys() or not isinstance(own, AutoencoderKL):
        return tensors
    return dict(convert_ldm_vae_checkpoint(dict(tensors), own.config))


def _require_same_layout(vae: str, own: Any, made: Any) -> None:
    """Raises BaseModelError for latents with other channels, another reduction, or another normalisation."""
    facts = {name: (own.config.get(name), made.config.get(name)) for name in LAYOUT}
    facts["reduction"] = _reduction(own), _reduction(made)
    for name, (wanted, found) in facts.items():
        if _as_list(wanted) != _as_list(found):
            raise BaseModelError(
                f"vae: the latents of {vae} have another layout than those of the base model: {name} is {found} "
                f"instead of {wanted}"
            )


def _reduction(vae: Any) -> int | None:
    """Pixels per latent along each side; None if the configuration does not contain it."""
    widths = vae.config.get("block_out_channels")
    return None if widths is None else int(2 ** (len(widths) - 1))


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _require_same_latents(vae: str, family: ModelFamily, own: Any) -> None:
    """Raises BaseModelError if a test image's latents differ from those of the base's VAE. `family` has the new one."""
    made = family.vae
    picture = _test_picture(TEST_SIDES * family.size_multiple)
    theirs = _latents(family, picture)
    family.vae = own
    ours = _latents(family, picture)
    family.vae = made
    likeness = float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1])
    if not likeness >= LEAST_LIKENESS:
        raise BaseModelError(
            f"vae: {vae} has another latent space than the base model: the correlation of its latents of a test image "
            f"with those of the base model's VAE is {likeness:.2f}, below {LEAST_LIKENESS}. Use a VAE that was made "
            "for this base model."
        )


@torch.no_grad()
def _latents(family: ModelFamily, picture: Tensor) -> Tensor:
    """Latents of the VAE that the base currently has, in fp32, because SDXL's own overflows in fp16."""
    vae, dtype = family.vae, family.vae.dtype
    vae.float()
    cached = family.encode_image(picture)
    vae.to(dtype)
    return family.latents(cached, torch.zeros(family.latent_shape(cached.shape))).float()


def _test_picture(side: int) -> Tensor:
    """Gradients, stripes and a disc in colours: (1, 3, side, side) in [-1, 1]."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = (down.square() + across.square() < 0.4).float()
    stripes = torch.sign(torch.sin(12 * across))
    colours = torch.stack([down * (1 - disc) + disc, across - disc, 0.5 * stripes * (1 - disc) - 0.5 * disc])
    return colours.clamp(-1, 1).unsqueeze(0)
