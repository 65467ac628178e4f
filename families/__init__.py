"""Model families: loading, prompt encoding, denoising, noise process."""

from transformers.utils import logging

# transformers warns for every image processor that torchvision is missing, and every refresh of its progress bars is a
# line in a container's log.
logging.set_verbosity_error()
logging.disable_progress_bar()
