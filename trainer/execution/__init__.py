"""How a step is executed: gradient accumulation, CUDA graphs, compilation, checkpointing, attention, memory."""
