"""The components of a large base model, loaded one by one: text encoders and denoiser are never in memory together.

A base is a folder or hub model in diffusers' layout. Or it is a single file that contains only the denoiser, as used in
ComfyUI, and `base_config` is the folder or hub model with all other components.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from families.errors import BaseModelError
from families.loading.opening import LOADING_ERRORS, LoadingOptions, half_precision_variant, remedy_for
from families.loading.single_file import denoiser_tensors
from families.loading.sources import BaseModelSource, find_configuration, read_index

Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Converts the tensors of a single file to those of diffusers' model."""
DENOISERS = ("transformer", "prior", "decoder")
"""The components that a single file may contain alone."""


@dataclass(frozen=True)
class PipelineParts:
    """`source`: the model that the user set. `place`: where the components and all configurations are: the same, or
    base_config."""

    source: BaseModelSource
    place: BaseModelSource
    options: LoadingOptions
    index: Mapping[str, Any]

    @classmethod
    def of(cls, source: BaseModelSource, options: LoadingOptions, classes: Mapping[str, str]) -> "PipelineParts":
        """Locate the components; nothing large is loaded. `classes`: the class that each component must have, by
        component.

        Raises BaseModelError for a component that is missing, or has another class.
        """
        place = source
        if source.kind == "file":
            assert options.base_config is not None  # families.registry
            place = find_configuration(options.base_config)
        parts = cls(source, place, options, read_index(place))
        parts.require(classes)
        return parts

    def require(self, classes: Mapping[str, str]) -> None:
        """Raises BaseModelError for a component that is missing, or has another class. `classes`: by component."""
        for part, expected in classes.items():
            self._require(part, expected)

    def config(self, part: str, model: Any) -> Mapping[str, Any]:
        """The configuration of a component, without its weights. `model`: diffusers' class, or transformers'
        AutoConfig."""
        with self._errors(part):
            if hasattr(model, "load_config"):
                return dict(model.load_config(self.place.location, subfolder=part, **self.place.pinned))
            return dict(model.from_pretrained(self.place.location, subfolder=part, **self.place.pinned).to_dict())

    def require_equal(self, one: tuple[str, Any], other: tuple[str, Any]) -> None:
        """Raises BaseModelError if two components do not match. Each argument: a description, and the value."""
        if one[1] != other[1]:
            raise BaseModelError(
                f"{self._input_name}: the components of {self.place.name} do not match: {one[0]} is {one[1]}, but "
                f"{other[0]} is {other[1]}. One of them belongs to another model family."
            )

    def load(self, part: str, model: Any) -> Any:
        """A small component, or a text encoder, on the CPU: models in the options' dtype, only from safetensors."""
        weights: dict[str, Any] = {}
        if isinstance(model, type) and issubclass(model, nn.Module):
            weights = {"dtype": self.options.dtype, "use_safetensors": True, "variant": self._variant(part)}
        with self._errors(part):
            loaded = model.from_pretrained(self.place.location, subfolder=part, **self.place.pinned, **weights)
        return loaded.eval().requires_grad_(False) if isinstance(loaded, nn.Module) else loaded

    def skeleton(self, part: str, model: Any) -> Any:
        """The denoiser without weights: they are on the meta device."""
        config = self.config(part, model)
        with self._errors(part), init_empty_weights():
            made = model.from_config(config)
        # diffusers' own method warns about layers that stay in fp32, even without any
        nn.Module.to(made, self.options.dtype)
        return made.eval().requires_grad_(False)

    def denoiser(self, part: str, model: Any, convert: Convert, device: torch.device) -> Any:
        """The denoiser with its weights, read straight to `device`. `convert`: for a single file whose names are not
        diffusers' own."""
        if self.source.kind == "file":
            made = self.skeleton(part, model)
            with self._errors(part):
                tensors: Mapping[str, Tensor] = denoiser_tensors(Path(self.source.location), device, self.options.dtype)
                if tensors.keys() != made.state_dict().keys():
                    tensors = convert(dict(tensors))
            self._require_same(part, made, tensors)
            made.load_state_dict(tensors, assign=True)
            return made.eval().requires_grad_(False)
        with self._errors(part):
            made = model.from_pretrained(
                self.place.location,
                subfolder=part,
                torch_dtype=self.options.dtype,
                use_safetensors=True,
                variant=self._variant(part),
                device_map={"": device},
                **self.place.pinned,
            )
        return made.eval().requires_grad_(False)

    @property
    def _input_name(self) -> str:
        return self.source.input_name if self.place is self.source else "base_config"

    def _variant(self, part: str) -> str | None:
        return half_precision_variant(self.place, (part,))

    def _require(self, part: str, expected: str) -> None:
        found = (self.index.get(part) or [None, None])[1]
        name = self._input_name
        if found is None:
            raise BaseModelError(f"{name}: {self.place.name} has no {part} ({expected}), which this family needs")
        if found != expected:
            raise BaseModelError(
                f"{name}: the {part} of {self.place.name} is a {found}, but this model family needs a {expected}"
            )
        if part in DENOISERS and self.place is not self.source:
            return  # its weights are in the file
        folder = Path(self.place.location, part)
        if self.place.kind == "folder" and _has_weights(expected) and not any(folder.glob("*.safetensors")):
            raise BaseModelError(f"{name}: {self.place.name} has no weights of its {part} (safetensors)")

    def _require_same(self, part: str, made: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Raises BaseModelError if a file's tensors do not match its configuration."""
        expected = {name: tuple(value.shape) for name, value in made.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in tensors.items()}
        different = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        if different:
            name = different[0]
            raise BaseModelError(
                f"base_config: {self.place.name} does not describe the {part} of {self.source.name}: {name} is "
                f"{given.get(name, 'missing')} in the file, but {expected.get(name, 'unknown')} in the configuration. "
                "Set base_config to the model that the file was made from."
            )

    @contextmanager
    def _errors(self, part: str) -> Iterator[None]:
        """Convert errors inside this context to one line with the remedy."""
        try:
            yield
        except BaseModelError:
            raise
        except LOADING_ERRORS as error:
            reason = " ".join(str(error).split())
            raise BaseModelError(
                f"{self.source.input_name}: cannot load the {part} of {self.place.name!r}: {type(error).__name__}: "
                f"{reason} {remedy_for(self.place, self.options, str(self.index.get('_class_name')))}"
            ) from error


def _has_weights(class_name: str) -> bool:
    return not class_name.endswith(("Scheduler", "Tokenizer", "TokenizerFast", "Processor"))
