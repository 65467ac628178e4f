"""Conditions of ControlNets, and shared code of families with a ControlNet."""
