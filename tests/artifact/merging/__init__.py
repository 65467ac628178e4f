"""Tests of merging a subject with a style, of merging into whole models, and of pruning."""
