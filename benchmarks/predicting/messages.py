"""The predictor's messages, whose printing is not measured."""


def discard(line: str) -> None:
    """Discard a message."""
