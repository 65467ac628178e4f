"""What a job does for a base that restores pictures: samples beside their originals, and PSNR."""
