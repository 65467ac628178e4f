"""Conditions of ControlNets, and what families with a ControlNet share."""
