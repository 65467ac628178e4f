"""Tests of placing files on a base."""
