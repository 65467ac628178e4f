"""The noise process of a UNet, by its scheduler. A new noise process is a file in this folder and a line here."""

from families.noise.diffusion_process import DiffusionProcess
from families.noise.edm_process import EDMProcess
from families.noise.noise_process import NoiseProcess


def process_of(scheduler: object) -> NoiseProcess:
    """Return the noise process of diffusers' scheduler. Raises ValueError if it is not supported."""
    if EDMProcess.describes(scheduler):
        return EDMProcess.from_scheduler(scheduler)
    return DiffusionProcess.from_scheduler(scheduler)
