"""What differs between model families, and nothing else: loading, conditioning, denoising, noise."""

from transformers.utils import logging

# transformers warns on import of every image processor that torchvision is missing; a bar for each loaded file is no
# news either, and in a container's log every refresh is a line.
logging.set_verbosity_error()
logging.disable_progress_bar()
