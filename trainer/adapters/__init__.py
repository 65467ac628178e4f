"""What is trained beside the tokens: an adapter on the denoiser, and on request on the text encoders."""
