"""ZipLoRA (Shah et al. 2023, arXiv 2311.13600): trains a factor for every input of every layer of both files.

They are trained until the merged LoRA predicts, for each file's prompt, what that file alone predicts. The images are
generated with the two LoRAs, so no training images are needed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.merging.plain import concatenated
from artifact.names.components import DENOISER, Place
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily, SizeConditioning
from families.noise.noise_process import Draw
from families.parts.placeholder_tokens import expand_triggers

STEPS, RATE = 100, 0.01
OVERLAP = 0.01
"""λ: the weight of |m_c · m_s|, which penalises that both use the same inputs, compared with the distance relative to
that of the plain sum. Compared with the absolute distance, and summed over the layers, it dominates if there are many
layers and the distances are small: on the embedded base, with 177 layers, the mean factor decreased to 0.23 for both
files."""
PICTURES, DRAWING_STEPS, GUIDANCE = 4, 20, 5.0
BATCH = 2


@dataclass(frozen=True)
class Factors:
    """m (in,) of both files for one layer, 1 at first. `parts`: their LoRAs, of scale 1."""

    parts: Sequence[LoraLayer]
    values: Sequence[nn.Parameter]

    def merged(self, name: str) -> LoraLayer:
        """The plain LoRA of rank r_c + r_s that does the same, exactly."""
        return concatenated(name, [_scaled(part, value) for part, value in zip(self.parts, self.values, strict=True)])

    def beyond_the_sum(self, x: Tensor, module: Any) -> Tensor:
        """The difference from the plain sum, whose factors are 1, for inputs `x` of the module."""
        changes = []
        for part, value in zip(self.parts, self.values, strict=True):
            down, up = part.down.to(x), part.up.to(x)
            less = (value - 1).to(x)
            if down.ndim == 4:
                hidden = module._conv_forward(x * less.view(1, -1, 1, 1), down, None)
                changes.append(nn.functional.conv2d(hidden, up))
            else:
                changes.append(nn.functional.linear(nn.functional.linear(x * less, down), up))
        return torch.stack(changes).sum(0)

    def overlap(self) -> Tensor:
        """mean |m_c · m_s|: ()."""
        first, second = self.values
        return (first * second).abs().mean()


def objective(distance: Tensor, plain: float, overlaps: Sequence[Tensor]) -> Tensor:
    """The objective of the factors: ().

    `distance`: from the files' own predictions, (); `plain`: that of the plain sum, > 0; `overlaps`: of each layer, ().
    The same for any size of predictions and number of layers.
    """
    return distance / plain + OVERLAP * torch.stack(list(overlaps)).mean()


def _scaled(part: LoraLayer, value: Tensor) -> LoraLayer:
    shape = (1, -1, *(1 for _ in part.down.shape[2:]))
    return LoraLayer(part.down * value.detach().reshape(shape), part.up, part.alpha)


def ziplora(
    artifacts: Sequence[Artifact],
    weights: Sequence[float],
    layers: Sequence[Mapping[Place, LoraLayer]],
    family: ModelFamily,
    prompts: Sequence[str],
) -> tuple[dict[Place, LoraLayer], str]:
    """Return the merged layers by place. `layers`: of both files, with their weights inside, scale 1. `prompts`: one
    for each, with its trigger word.

    Layers that one file alone has, and those of text encoders, are summed. Raises ArtifactError where the denoiser has
    no layer of both files.
    """
    first, second = layers
    shared = [place for place in first if place in second and place.component == DENOISER]
    if not shared:
        raise ArtifactError(
            "--mode ziplora: the two files have no layer of the denoiser in common. Use --mode concat, which gives the "
            "same result."
        )
    factors = {place: _fresh((first[place], second[place])) for place in shared}
    placed = PlacedArtifacts(family, artifacts, weights)
    try:
        training = _Zip(family, placed, weights, factors, [expand_triggers(each, placed.triggers) for each in prompts])
        before, after = training.run()
    finally:
        placed.remove()
    merged = {place: concatenated(place.path, [part[place] for part in layers if place in part])
              for place in dict.fromkeys([*first, *second])}  # fmt: skip
    merged |= {place: each.merged(place.path) for place, each in factors.items()}
    note = (
        f"ziplora: the squared distance from each file's own prediction for its prompt is {after:.3g}; for the plain "
        f"sum it is {before:.3g}"
    )
    return merged, note


def _fresh(parts: Sequence[LoraLayer]) -> Factors:
    return Factors(parts, [nn.Parameter(torch.ones(part.down.shape[1])) for part in parts])


class _Zip:
    """The training of the factors, on images that are generated with the two files."""

    def __init__(
        self,
        family: ModelFamily,
        placed: PlacedArtifacts,
        weights: Sequence[float],
        factors: Mapping[Place, Factors],
        prompts: Sequence[str],
    ) -> None:
        self._family, self._placed, self._weights, self._factors = family, placed, list(weights), factors
        self._prompts = prompts
        self._generator = torch.Generator().manual_seed(0)
        side = family.native_resolution
        self._size = SizeConditioning((side, side), (0, 0), (side, side))

    def run(self) -> tuple[float, float]:
        """Train. Returns the squared distances from the files' own predictions before and after, with fixed noise and
        timesteps."""
        pictures = [self._drawn(number) for number in range(len(self._prompts))]
        tests = [self._draw(latents) for latents in pictures]
        values = [value for each in self._factors.values() for value in each.values]
        optimizer = torch.optim.AdamW(values, lr=RATE, weight_decay=0.0)
        with self._applied():
            with torch.no_grad():
                before = float(self._distance(pictures, tests))
            if before == 0:  # the target is each file's own prediction
                return before, before
            for _ in range(STEPS):
                chosen = [latents[torch.randint(PICTURES, (BATCH,), generator=self._generator)] for latents in pictures]
                distance = self._distance(chosen, [self._draw(latents) for latents in chosen])
                loss = objective(distance, before, [each.overlap() for each in self._factors.values()])
                gradients = torch.autograd.grad(loss, values)
                for value, gradient in zip(values, gradients, strict=True):
                    value.grad = gradient
                optimizer.step()
            with torch.no_grad():
                return before, float(self._distance(pictures, tests))

    def _distance(self, latents: Sequence[Tensor], draws: Sequence[Draw]) -> Tensor:
        """Σ over the files of the mean squared distance of the merged prediction from the file's own: ()."""
        process, distances = self._family.noise_process, []
        for number, (each, draw) in enumerate(zip(latents, draws, strict=True)):
            noised = process.corrupt(each, draw)
            with torch.no_grad(), self._alone(number):
                wanted = self._predict(noised, draw.timesteps, self._prompts[number])
            found = self._predict(noised, draw.timesteps, self._prompts[number])
            distances.append((found - wanted).square().mean())
        return torch.stack(distances).sum()

    def _predict(self, noised: Tensor, timesteps: Tensor, prompt: str) -> Tensor:
        features = self._family.encode_prompts([prompt] * len(noised))
        return self._family.denoise(noised, timesteps, features, [self._size] * len(noised))

    @torch.no_grad()
    def _drawn(self, number: int) -> Tensor:
        """PICTURES latents that are generated with this file alone, by DDIM (Song et al. 2021, η = 0) with guidance."""
        family, process = self._family, self._family.noise_process
        side = self._size.target[0]
        shape = family.latent_shape(family.encode_image(torch.zeros(1, 3, side, side, device=family.device)).shape)
        noised = torch.randn((PICTURES, *shape[1:]), generator=self._generator).to(family.device)
        guided = family.guidance_kind == "classifier-free"
        fractions = [1 - (step + 0.5) / DRAWING_STEPS for step in range(DRAWING_STEPS)]
        with self._alone(number):
            for index, fraction in enumerate(fractions):
                now = self._timesteps(fraction, noised)
                found = self._predict(noised, now, self._prompts[number])
                if guided:
                    unguided = self._predict(noised, now, "")
                    found = unguided + GUIDANCE * (found - unguided)
                latents, noise = process.to_x0(noised, found, now), process.to_noise(noised, found, now)
                if index + 1 < DRAWING_STEPS:
                    noised = process.corrupt(latents, Draw(self._timesteps(fractions[index + 1], noised), noise))
        return latents

    def _timesteps(self, fraction: float, latents: Tensor) -> Tensor:
        fractions = torch.full((len(latents),), fraction)
        return self._family.noise_process.timesteps_at(fractions, latents.shape).to(latents.device)

    def _draw(self, latents: Tensor) -> Draw:
        return self._family.noise_process.draw(latents, self._generator, self._generator)

    @contextmanager
    def _alone(self, number: int) -> Iterator[None]:
        """Inside this context, only that file is applied, without factors."""
        self._on = False
        self._placed.set_scales(*(weight * (index == number) for index, weight in enumerate(self._weights)))
        try:
            yield
        finally:
            self._on = True
            self._placed.set_scales(*self._weights)

    @contextmanager
    def _applied(self) -> Iterator[None]:
        """The factors are applied inside this context."""
        self._on = True
        device = self._family.device
        handles = []
        for place, factors in self._factors.items():
            for value in factors.values:
                value.data = value.data.to(device)
            module = self._family.denoiser.get_submodule(place.path)
            handles.append(module.register_forward_hook(self._hook(factors)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for factors in self._factors.values():
                for value in factors.values:
                    value.data = value.data.cpu()

    def _hook(self, factors: Factors) -> Callable[..., Tensor | None]:
        def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return output + factors.beyond_the_sum(inputs[0], module.get_base_layer()) if self._on else None

        return add
