"""Writes the list of key patterns in docs/artifact.md, from the layers of each transformer at full size.

python -m tools.lora_keys
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from artifact.conversion.transformer_names import ai_toolkit_layers, kohya_layers
from artifact.layers import LoraLayer
from artifact.names.kohya import file_names
from benchmarks.speed.memory_plan import bare_family
from settings.sections.adapter import AdapterSection
from trainer.adapters.targets import denoiser_targets

TARGET = Path(__file__).resolve().parents[1] / "docs" / "artifact.md"
BEGIN, END = "<!-- python -m tools.lora_keys -->", "<!-- end -->"
BASES: Mapping[str, str] = {
    "flux1-dev": "FLUX.1 dev, schnell", "flux2-klein-4b": "FLUX.2 klein, dev", "z-image": "Z-Image, base and turbo",
    "qwen-image": "Qwen-Image",
}  # fmt: skip
"""Keys of benchmarks.speed.memory_plan.FULL_SIZE. Those of one family have the same patterns."""
BLOCK = re.compile(r"(?<=[._])\d+(?=[._])")
"""The number of a block, which is the first number in every name."""


def lists() -> str:
    """Return a table for each family, in Markdown."""
    return "\n\n".join(f"{said}:\n\n{_table(name)}" for name, said in BASES.items())


def page(text: str) -> str:
    """Replace the lists between the page's markers."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{lists()}\n\n{END}{rest.partition(END)[2]}"


def _table(name: str) -> str:
    return "\n".join(["| `lora_targets` | ours | kohya, musubi-tuner | ai-toolkit |\n|---|---|---|---|", *_rows(name)])


def _rows(name: str) -> Iterator[str]:
    """A row for each kind of layer that is adapted with `lora_targets: attention+feed-forward`."""
    family = bare_family(name)
    names = file_names(family)
    attention = set(denoiser_targets(family, AdapterSection(lora_targets="attention")))
    every = denoiser_targets(family, AdapterSection(lora_targets="attention+feed-forward"))
    for path in reversed({_pattern(path): path for path in reversed(every)}.values()):
        layer = {names[path]: _layer(family.denoiser.get_submodule(path))}
        (kohya,), (ai_toolkit,) = kohya_layers(layer, family.name), ai_toolkit_layers(layer, family.name)
        patterns = (f"`{_pattern(each)}`" for each in (names[path], kohya, ai_toolkit))
        yield f"| {'attention' if path in attention else 'feed-forward'} | {' | '.join(patterns)} |"


def _layer(linear: Any) -> LoraLayer:
    """A layer of rank 1, which is only used for its name."""
    rows, columns = linear.weight.shape
    return LoraLayer(torch.zeros(1, columns), torch.zeros(rows, 1), 1.0)


def _pattern(name: str) -> str:
    return BLOCK.sub("N", name, count=1)


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    print(TARGET)
