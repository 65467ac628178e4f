"""The schedulers that users can choose, by name."""

from typing import Any

import diffusers

from families.loading.opening import takes_zero_terminal_snr

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # the default is for pixels
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
BASE_SCHEDULER = "base"
"""Stands for the base model's own scheduler."""


FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
}


def known_schedulers(base_scheduler: Any) -> tuple[str, ...]:
    """Return the names of supported schedulers. Flow matching has its own; with zero terminal SNR only some are
    suitable, and without betas only the base model's."""
    if _is_flow(base_scheduler):
        return BASE_SCHEDULER, *FLOW_SCHEDULERS
    if "beta_schedule" not in base_scheduler.config:
        return (BASE_SCHEDULER,)
    zero_snr = base_scheduler.config.get("rescale_betas_zero_snr", False)
    fitting = (name for name, (kind, _) in SCHEDULERS.items() if not zero_snr or _starts_from_noise(kind))
    return BASE_SCHEDULER, *fitting


def build_scheduler(name: str, base_scheduler: Any) -> Any:
    """Return a new scheduler with the base's noise schedule. Raises KeyError for an unknown name."""
    if name == BASE_SCHEDULER:
        return type(base_scheduler).from_config(base_scheduler.config)
    class_name, options = (FLOW_SCHEDULERS if _is_flow(base_scheduler) else SCHEDULERS)[name]
    return getattr(diffusers, class_name).from_config(base_scheduler.config, **options)


def _is_flow(scheduler: Any) -> bool:
    return "shift" in scheduler.config


def _starts_from_noise(class_name: str) -> bool:
    return takes_zero_terminal_snr(getattr(diffusers, class_name))
