"""Measurements that can be repeated, and their results, in rooms by what is measured."""
