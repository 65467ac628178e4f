"""Builds and evaluates mini-flow, the embedded base that is trained with flow matching."""
