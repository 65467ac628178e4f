"""Tests of merging that asks more than the files."""
