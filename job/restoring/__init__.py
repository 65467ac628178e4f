"""Jobs for base models that reconstruct images: samples with their originals, and PSNR."""
