"""Generates text with any transformers model, a few images at a time."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from preprocess.captioners.captioner import BATCH_SIZE, OTHER_WAYS, CaptionerError

MAX_NEW_TOKENS = 96


def in_batches(
    model_id: str, images: Sequence[Image.Image], caption_batch: Callable[[Sequence[Image.Image]], list[str]]
) -> list[str]:
    """Call `caption_batch` with at most BATCH_SIZE images at a time, and return all captions. Raises CaptionerError."""
    captions: list[str] = []
    for start in range(0, len(images), BATCH_SIZE):
        with answering(model_id):
            captions += caption_batch(images[start : start + BATCH_SIZE])
    return captions


@contextmanager
def answering(model_id: str) -> Iterator[None]:
    """Convert exceptions of a model during generation to CaptionerError with a remedy."""
    try:
        yield
    except CaptionerError:
        raise
    except torch.OutOfMemoryError as error:
        raise CaptionerError(
            f"{model_id}: the memory of the device is too small for {BATCH_SIZE} images at once. "
            f"Choose a smaller captioner, such as florence-2-base. {OTHER_WAYS}"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise CaptionerError(f"{model_id}: cannot caption the images ({error}). {OTHER_WAYS}") from error


@torch.inference_mode()
def generate(model: Any, inputs: Any, num_beams: int = 1) -> torch.Tensor:
    """Generate the most probable answer of `model`: token ids (batch, length).

    `inputs`: the output of the model's processor. Its floating point tensors are cast to the dtype of the model.
    """
    placed = inputs.to(model.device, model.dtype)
    answered: torch.Tensor = model.generate(
        **placed, do_sample=False, num_beams=num_beams, max_new_tokens=MAX_NEW_TOKENS
    )
    return answered


def free_memory() -> None:
    """Free the memory of a captioner that is no longer referenced, for the model that will be trained."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
