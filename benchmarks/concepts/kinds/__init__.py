"""Random generation and drawing of each kind of concept."""
