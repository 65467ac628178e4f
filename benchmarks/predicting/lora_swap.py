"""Time for exchanging a LoRA in the predictor, compared with loading a base: for an SDXL of full size, or the embedded
one.

python -m benchmarks.speed.full_size sdxl BASE                       # writes it, with random weights: 6.9 GB
python -m benchmarks.predicting.lora_swap [--base_model BASE] [--loads 3] [--swaps 25]

The LoRA has random values: rank 16 on all attention layers of the denoiser, and two tokens for each text encoder, in
fp16. The files come from the operating system's file cache. On a CPU, times are CPU times of the process, which depend
little on other processes, and the base is loaded in fp32: SDXL takes 14 GB.
"""

import argparse
import statistics
import zlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from artifact.artifact import Artifact
from artifact.layers import LoraLayer
from artifact.metadata import ArtifactDescription
from artifact.names.kohya import file_names
from benchmarks.predicting.clock import seconds, timed
from benchmarks.predicting.messages import discard
from benchmarks.record import Row, markdown, write_record
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from families.parts.placeholder_tokens import placeholder_names
from sampler.generation import Generation
from sampler.sampler import Sampler
from settings.command_line.parser import CommandParser
from trainer.adapters.targets import ending_with, layer_paths

RANK = 16
TOKENS = 2


def main() -> None:
    """Measure, print the table, write benchmarks/results/lora_swap_NAME.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="mini-sdxl", help="a folder, or mini-sdxl")
    parser.add_argument("--loads", type=int, default=3, help="number of loads; the table has the median")
    parser.add_argument("--swaps", type=int, default=25, help="the same")
    parser.add_argument("--name", default="mini", help="of the record")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = measure(given.base_model, given.loads, given.swaps, Path(folder))
    print(markdown(rows))
    print(write_record(f"lora_swap_{given.name}", rows, vars(given)))


def measure(base_model: str, loads: int, swaps: int, folder: Path) -> list[Row]:
    """Return a row for each operation. Raises AssertionError if the base is not restored bit for bit. The first load,
    which includes imports, and the first swap, which creates peft's layers, are not counted.
    """
    load_and_free(base_model)
    load = statistics.median(seconds(partial(load_and_free, base_model)) for _ in range(loads))
    sampler = Generation(discard).prepare(None, base_model)
    file = write_lora(sampler.family, folder / "weights.safetensors")
    before = identities(sampler.family)
    read, put, off = swap_times(sampler, file, swaps)
    assert identities(sampler.family) == before, "the base model was not restored"
    spent = {"base loaded": load, "LoRA read": read, "LoRA put on the base": put, "LoRA taken off": off}
    spent["LoRA exchanged: the three together"] = read + put + off
    return [
        {"what": what, "ms": round(1000 * each, 1), "of a load": f"{each / load:.1%}"} for what, each in spent.items()
    ]


def load_and_free(base_model: str) -> None:
    """Load the base like the predictor; it is freed, so that two of them need not fit into memory."""
    Generation(discard).prepare(None, base_model)


def write_lora(family: ModelFamily, path: Path, rank: int = RANK) -> Path:
    """Write a LoRA of random values on all attention layers, with tokens."""
    generator = torch.Generator().manual_seed(rank)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(shape, generator=generator)

    names, layers = file_names(family), {}
    for module_path in ending_with(layer_paths(family.denoiser), family.adapter_modules["attention"]):
        outputs, inputs = family.denoiser.get_submodule(module_path).weight.shape
        layers[names[module_path]] = LoraLayer(drawn(rank, inputs), drawn(outputs, rank), float(rank))
    tokens = {
        name: drawn(TOKENS, encoder.get_input_embeddings().embedding_dim)
        for name, encoder in zip(family.encoder_names, family.text_encoders, strict=True)
    }
    description = ArtifactDescription(
        family.name, "base", fingerprint(family.denoiser), family.noise_process.prediction_type,
        {"TOK": placeholder_names(TOKENS)}, 1,
    )  # fmt: skip
    Artifact(layers, tokens, description).write(
        path, "fp16", architecture=family.architecture, base_model_version=family.base_model_version
    )
    return path


def swap_times(sampler: Sampler, file: Path, swaps: int) -> tuple[float, float, float]:
    """Return the median seconds for reading a LoRA, applying it to the base, and removing it."""
    times: list[tuple[float, float, float]] = []
    for _ in range(1 + swaps):
        artifact, read = timed(partial(Artifact.read, file))
        put = seconds(partial(sampler.load, artifact))
        times.append((read, put, seconds(sampler.unload)))
    read, put, off = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return read, put, off


def identities(family: ModelFamily) -> dict[str, tuple[int, int]]:
    """The identity of each weight tensor of denoiser and text encoders, and its CRC-32."""
    parts: list[nn.Module] = [family.denoiser, *family.text_encoders]
    return {
        f"{number}.{name}": (id(parameter), zlib.crc32(parameter.detach().cpu().view(torch.uint8).numpy().data))
        for number, part in enumerate(parts)
        for name, parameter in part.named_parameters()
    }


if __name__ == "__main__":
    main()
