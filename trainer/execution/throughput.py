"""Estimates the floating-point operations per second of a training on a device."""

import time
from dataclasses import dataclass

import torch

TERA = 10**12
PEAK_OPERATIONS = {
    "H100 PCIe": 756e12, "H100": 989.5e12, "H200": 989.5e12, "A100": 312e12, "A40": 149.7e12, "A10": 125e12,
    "L40S": 362e12, "L4": 121e12, "RTX A6000": 154.8e12, "RTX 6000 Ada": 364.2e12, "RTX 3090": 71e12,
    "RTX 4090": 165.2e12, "RTX 5090": 209.5e12,
}  # fmt: skip
"""Operations per second of dense products in bf16 with fp32 accumulation, from NVIDIA's data sheets and white papers. A
name that contains another one precedes it."""
USUAL_SHARE = 0.27
"""Share of the peak that a step reaches: 22 to 31 % was measured on an H200 (docs/performance.md)."""
LEAST_SECONDS = 0.05
"""Total duration in seconds of the products of a measurement."""


@dataclass(frozen=True)
class Throughput:
    """`peak`: operations per second of matrix products. `source`: where it comes from, for messages."""

    peak: float
    source: str

    def seconds(self, operations: int) -> float:
        """Seconds for `operations` of a training, with the usual utilisation of the device."""
        return operations / (USUAL_SHARE * self.peak)

    def said(self, operations: int) -> str:
        """The estimate as text."""
        return (
            f"about {self.seconds(operations):.2g} s a step (an estimate: {operations / TERA:.3g} TFLOP at "
            f"{USUAL_SHARE:.0%} of {self.peak / TERA:.3g} TFLOP/s, {self.source})"
        )


def throughput(device: torch.device, dtype: torch.dtype) -> Throughput:
    """Look up a GPU by its name, for a training in bf16; otherwise measure products of `dtype` on the device."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        card = known_card(name)
        if card is not None:
            return Throughput(PEAK_OPERATIONS[card], f"the peak of an {card} in bf16")
    return Throughput(measured_products(device, dtype), "measured with matrix products")


def known_card(name: str) -> str | None:
    """The key in PEAK_OPERATIONS for a name such as `NVIDIA A100-SXM4-80GB`; None if it is not in the table."""
    words = f" {name.replace('-', ' ')} "
    if " Laptop " in words:  # variants that are slower than the GPU of that name
        return None
    return next((card for card in PEAK_OPERATIONS if f" {card} " in words), None)


def measured_products(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of square products, the fastest of several. Takes about 0.1 s."""
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
