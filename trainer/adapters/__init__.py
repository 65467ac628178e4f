"""Adapters on the denoiser and, on request, on the text encoders."""
