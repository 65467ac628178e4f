"""How many floating-point operations a second a training gets from a device: an estimate."""

import time
from dataclasses import dataclass

import torch

TERA = 10**12
PEAK_OPERATIONS = {
    "H100 PCIe": 756e12, "H100": 989.5e12, "H200": 989.5e12, "A100": 312e12, "A40": 149.7e12, "A10": 125e12,
    "L40S": 362e12, "L4": 121e12, "RTX A6000": 154.8e12, "RTX 6000 Ada": 364.2e12, "RTX 3090": 71e12,
    "RTX 4090": 165.2e12, "RTX 5090": 209.5e12,
}  # fmt: skip
"""Dense products of bf16 a second, summed in fp32, by NVIDIA's data sheets and white papers. A name that contains
another stands before it."""
USUAL_SHARE = 0.27
"""Of the peak that a step takes: 22 to 31 % was measured on an H200 (docs/performance.md)."""
LEAST_SECONDS = 0.05
"""How long the products of a measurement last in all."""


@dataclass(frozen=True)
class Throughput:
    """`peak`: operations a second of matrix products alone. `source`: where that is from."""

    peak: float
    source: str

    def seconds(self, operations: int) -> float:
        """Seconds that `operations` of a training take, as far as the device is busy as usual."""
        return operations / (USUAL_SHARE * self.peak)

    def said(self, operations: int) -> str:
        """The estimate in words."""
        return (
            f"about {self.seconds(operations):.2g} s a step (an estimate: {operations / TERA:.3g} TFLOP at "
            f"{USUAL_SHARE:.0%} of {self.peak / TERA:.3g} TFLOP/s, {self.source})"
        )


def throughput(device: torch.device, dtype: torch.dtype) -> Throughput:
    """Look a GPU up by its name, for a training in bf16; else measure products of `dtype` on the device."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        card = known_card(name)
        if card is not None:
            return Throughput(PEAK_OPERATIONS[card], f"the peak of an {card} in bf16")
    return Throughput(measured_products(device, dtype), "measured by products of matrices")


def known_card(name: str) -> str | None:
    """The key in PEAK_OPERATIONS for a name such as `NVIDIA A100-SXM4-80GB`; None for one that is not there."""
    words = f" {name.replace('-', ' ')} "
    if " Laptop " in words:  # slower than the card of that name, each in its own way
        return None
    return next((card for card in PEAK_OPERATIONS if f" {card} " in words), None)


def measured_products(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of square products, the fastest of several. Takes about 0.1 s."""
    side = 4096 if device.type == "cuda" else 512
    factor = torch.ones(side, side, device=device, dtype=dtype)
    seconds: list[float] = []
    while sum(seconds) < LEAST_SECONDS or len(seconds) < 3:
        begun = time.perf_counter()
        torch.mm(factor, factor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / min(seconds)
