"""Execution of a step: gradient accumulation, CUDA graphs, compilation, checkpointing, attention, memory."""
