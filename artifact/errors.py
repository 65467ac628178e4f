"""The error for an unusable artifact."""


class ArtifactError(ValueError):
    """A weights file that cannot be read, or does not fit the base model. The message names the remedy."""
