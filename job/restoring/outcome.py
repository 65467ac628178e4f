"""The reconstruction quality before and after a training, for log and report."""

from dataclasses import dataclass

from job.restoring.samples import Originals


@dataclass(frozen=True)
class Restoration:
    """Mean PSNR in dB of the reconstructions by the base model and by the trained model."""

    pictures: int
    held_out: bool
    psnr_before: float
    psnr_after: float

    @classmethod
    def of(cls, originals: Originals, before: float | None, after: float | None) -> "Restoration | None":
        """Build from both values. Returns None if no image was reconstructed."""
        if before is None or after is None:
            return None
        return cls(len(originals.pictures), originals.held_out, round(before, 3), round(after, 3))

    def __str__(self) -> str:
        return f"PSNR {self.psnr_before:.1f} dB before, {self.psnr_after:.1f} dB after"
