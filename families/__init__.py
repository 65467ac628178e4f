"""What differs between model families, and nothing else: loading, conditioning, denoising, noise."""
