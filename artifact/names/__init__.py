"""The names of layers in files of weights, by tool."""
