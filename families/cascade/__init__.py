"""Stable Cascade: three stages, of which Stage C, the text-to-image prior, is trained (Pernias et al. 2024)."""
