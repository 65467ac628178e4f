"""What a configuration puts around noise and prompts. A new idea is a file beside this one and a line here."""

from families.family import ModelFamily
from families.noise.noise_process import NoiseProcess
from settings.training import TrainingConfig
from trainer.data.prompt_cache import Encode
from trainer.noise.conditioning import NoisyPrompts
from trainer.noise.offset import NoiseOffset
from trainer.noise.perturbation import InputPerturbation
from trainer.noise.shared import SharedDraws
from trainer.noise.timestep_range import TimestepRange
from trainer.randomness import NamedGenerators


def training_noise(config: TrainingConfig, family: ModelFamily, generators: NamedGenerators) -> NoiseProcess:
    """The noise that is trained with; validation and samples keep the family's own."""
    process, share = family.noise_process, generators.share
    if config.restricts_timesteps:
        process = TimestepRange(process, config.min_timestep, config.max_timestep, config.timestep_bias)
    if config.noise_offset > 0:
        process = NoiseOffset(process, config.noise_offset)
    if config.input_perturbation > 0:
        process = InputPerturbation(
            process, config.input_perturbation, generators["input_perturbation"], generators.share
        )
    if share.count > 1:
        process = SharedDraws(process, share)
    return process


def training_prompts(config: TrainingConfig, encode: Encode, generators: NamedGenerators) -> Encode:
    """How prompts are read while training. `encode`: without anything around it."""
    if config.conditioning_noise > 0:
        return NoisyPrompts(encode, config.conditioning_noise, generators["conditioning_noise"], generators.share)
    return encode
