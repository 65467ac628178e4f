"""Builds the noise and prompt modifiers of a configuration. A new modifier is a file in this folder and a line here."""

from dataclasses import replace

from families.family import ModelFamily
from families.noise.edm_process import EDMProcess
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import NoiseProcess
from settings.sections.noise import NoiseSection
from trainer.data.prompt_cache import Encode
from trainer.noise.conditioning import NoisyPrompts
from trainer.noise.offset import NoiseOffset
from trainer.noise.perturbation import InputPerturbation
from trainer.noise.pyramid import PyramidNoise
from trainer.noise.shared import SharedDraws
from trainer.noise.timestep_range import TimestepRange
from trainer.randomness import NamedGenerators


def training_noise(settings: NoiseSection, family: ModelFamily, generators: NamedGenerators) -> NoiseProcess:
    """Return the noise process of training steps. Validation and samples use the family's own."""
    process, share = family.noise_process, generators.share
    if settings.restricts_timesteps:
        process = _drawn_otherwise(settings, process)
    if settings.noise_offset > 0:
        process = NoiseOffset(process, settings.noise_offset)
    if settings.multires_noise_iterations > 0:
        process = PyramidNoise(process, settings.multires_noise_iterations, settings.multires_noise_discount)
    if settings.input_perturbation > 0:
        process = InputPerturbation(
            process, settings.input_perturbation, generators["input_perturbation"], generators.share
        )
    if share.count > 1:
        process = SharedDraws(process, share)
    return process


def _drawn_otherwise(settings: NoiseSection, process: NoiseProcess) -> TimestepRange:
    sampling, bias, low, high = (
        settings.timestep_sampling, settings.timestep_bias, settings.min_timestep, settings.max_timestep,
    )  # fmt: skip
    if sampling == "auto" and bias is None:  # as the process draws itself: only the range differs
        if isinstance(process, EDMProcess):
            return TimestepRange(process, low, high, fractions=process.draw_fractions)
        bias = 0.0 if isinstance(process, FlowMatching) else None
    if sampling in ("uniform", "logit_normal", "sigmoid") and isinstance(process, FlowMatching):
        process = replace(process, shift=1.0)
    if sampling not in ("auto", "uniform") and bias is None:
        bias = 0.0
    return TimestepRange(process, low, high, bias)


def training_prompts(conditioning_noise: float, encode: Encode, generators: NamedGenerators) -> Encode:
    """Return the prompt encoder of training steps. `encode`: the encoder without modifiers."""
    if conditioning_noise > 0:
        return NoisyPrompts(encode, conditioning_noise, generators["conditioning_noise"], generators.share)
    return encode
