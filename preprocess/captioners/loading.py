"""Loads a model and its processor, and explains what is missing if that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin

from fetching.errors import DownloadError
from fetching.hub_connection import require_hub
from preprocess.captioners.captioner import OTHER_WAYS, CaptionerError

OPTIONAL_PACKAGES = (
    "torchvision",
    "num2words",
    "sentencepiece",
    "protobuf",
    "tiktoken",
    "einops",
    "xformers",
    "timm",
    "triton",
)


def load_model(model_class: Any, source: str, device: torch.device, trust_remote_code: bool) -> Any:
    """Load a model in evaluation mode, in the dtype for `device`, from safetensors only.

    Raises CaptionerError, also when the files lack weights of the model.
    """
    with loading_errors(source):
        model, report = model_class.from_pretrained(
            source,
            dtype=dtype_for(device),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        if missing := sorted(report["missing_keys"]):
            raise CaptionerError(
                f"{source}: lacks {len(missing)} weights of the model, such as {missing[0]}, which would be random. "
                f"Its files are for another version of the model. {OTHER_WAYS}"
            )
        return model.to(device).eval()


def dtype_for(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_processor(source: str, trust_remote_code: bool) -> Any:
    """Load the processor, which prepares images and text for the model. Raises CaptionerError."""
    with loading_errors(source):
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    if not isinstance(processor, ProcessorMixin):
        raise CaptionerError(f"{source}: has no image processor, so it is not a captioner. {OTHER_WAYS}")
    return processor


def load_tokenizer(source: str, trust_remote_code: bool) -> Any:
    """Load the tokenizer alone, for models without a processor. Raises CaptionerError."""
    with loading_errors(source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)


@contextmanager
def loading_errors(source: str) -> Iterator[None]:
    """Convert transformers' exceptions while loading `source` to CaptionerError with a remedy."""
    try:
        require_hub(source, "config.json")
        yield
    except CaptionerError:
        raise
    except DownloadError as error:
        raise CaptionerError(f"captioner: {error}. {OTHER_WAYS}") from error
    except ImportError as error:
        raise CaptionerError(_missing_package(source, error)) from error
    except torch.OutOfMemoryError as error:
        raise CaptionerError(f"{source}: is larger than the memory of the device. {OTHER_WAYS}") from error
    except OSError as error:
        raise CaptionerError(
            f"{source}: cannot be downloaded or read: {_first_line(error)} Check its name and the network connection. "
            f"{OTHER_WAYS}"
        ) from error
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CaptionerError(
            f"{source}: transformers cannot load it as a captioner: {_first_line(error)} {OTHER_WAYS}"
        ) from error


def _missing_package(source: str, error: ImportError) -> str:
    text = str(error).lower()
    if "cannot import name" in text or (error.name or "").startswith("transformers."):
        return f"{source}: its code does not run with this version of transformers ({error}). {OTHER_WAYS}"
    packages = [package for package in OPTIONAL_PACKAGES if package in text] or [error.name or _first_line(error)]
    matching = f" (the release made for torch {torch.__version__.split('+')[0]})" if "torchvision" in packages else ""
    return f"{source}: needs a package that is not installed. Install {', '.join(packages)}{matching}. {OTHER_WAYS}"


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith(".") else f"{line}."
