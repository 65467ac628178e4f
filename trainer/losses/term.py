"""The interface of a loss term, and the data that it gets."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from families.family import Conditioning, SizeConditioning
from families.noise.noise_process import Draw, NoiseProcess


@dataclass(frozen=True)
class StepContext:
    """One micro-batch after the forward pass.

    Latent tensors are (B, C, h, w). `captions` are as the user writes them, `prompts` as the text encoders read them.
    `masks`: (B, 1, h, w) in 0 to 1, or None. `weights`: (B,), the weight of each image. `step`: the number of optimizer
    steps before this one. `conditioning`: the denoiser's additional inputs. `autocast`: the precision in which
    `prediction` was computed, for predictions that are compared with it.
    """

    captions: Sequence[str]
    sizes: Sequence[SizeConditioning]
    latents: Tensor
    draw: Draw
    noised: Tensor
    prediction: Tensor
    noise_process: NoiseProcess
    masks: Tensor | None
    weights: Tensor
    prompts: Sequence[str] = ()
    step: int = 0
    conditioning: Conditioning | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext


OF_IMAGES = ("mse", "huber", "dco", "token_attention")
"""Terms over the batch's images, in which images that fill up a batch have less weight."""


class LossTerm(Protocol):
    """One term of the loss: a scalar mean over the micro-batch, None in steps that it skips."""

    @property
    def name(self) -> str: ...

    def __call__(self, context: StepContext) -> Tensor | None: ...


@runtime_checkable
class LearnsInSteps(Protocol):
    """A term with a state of its own that changes after each step."""

    @property
    def name(self) -> str: ...

    def end_step(self) -> None:
        """After all micro-batches of a step."""

    def forget_step(self) -> None:
        """The step is repeated from its first micro-batch."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def learning_terms(terms: Sequence[LossTerm]) -> Iterator[LearnsInSteps]:
    """The terms with a state."""
    return (term for term in terms if isinstance(term, LearnsInSteps))
