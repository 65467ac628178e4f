"""Several LoRAs against the bare base and each other, on one list of prompts: `python -m evaluation.comparison`."""
