"""The list of families. A new one is a file beside this one and a line in FAMILIES."""

import torch

from families.errors import BaseModelError
from families.family import ModelFamily
from families.sdxl import SDXL
from families.sources import find_base_model, pipeline_class_name

FAMILIES = {family.pipeline_class_name: family for family in (SDXL,)}


def load_base_model(base_model: str, dtype: torch.dtype) -> ModelFamily:
    """Load `base_model` with the family that its own index names (a hub id or single file is opened as SDXL).

    Raises BaseModelError with the remedy.
    """
    source = find_base_model(base_model)
    class_name = pipeline_class_name(source) or SDXL.pipeline_class_name
    if class_name not in FAMILIES:
        raise BaseModelError(
            f"base_model: {base_model} is a {class_name}; supported are {', '.join(sorted(FAMILIES))}. "
            "docs/adding-a-family.md tells how one is added."
        )
    return FAMILIES[class_name].load(source, dtype)
