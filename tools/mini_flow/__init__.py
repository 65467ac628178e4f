"""Builds and judges mini-flow, the embedded base that is trained by flow matching."""
