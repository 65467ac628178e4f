"""The error that an unusable artifact raises."""


class ArtifactError(ValueError):
    """A weights file that cannot be read, or does not fit the base model. The text names the remedy."""
