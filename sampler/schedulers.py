"""The samplers that a user may choose, by the names that people use for them."""

from typing import Any

import diffusers

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
BASE_SCHEDULER = "base"
"""Means: the scheduler that the base model brings along."""


def build_scheduler(name: str, base_scheduler: Any) -> Any:
    """A fresh scheduler with the base's noise schedule. Raises KeyError for an unknown name."""
    if name == BASE_SCHEDULER:
        return type(base_scheduler).from_config(base_scheduler.config)
    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(base_scheduler.config, **options)
