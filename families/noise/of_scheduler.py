"""The noise process of a UNet, by its scheduler. A new noise process is a file in this folder and a line here."""

from families.noise.diffusion_process import DiffusionProcess
from families.noise.edm_process import EDMProcess
from families.noise.noise_process import NoiseProcess


def process_of(scheduler: object) -> NoiseProcess:
    """Return the process that diffusers' scheduler was made for. Raises ValueError where it is not known."""
    if EDMProcess.describes(scheduler):
        return EDMProcess.from_scheduler(scheduler)
    return DiffusionProcess.from_scheduler(scheduler)
