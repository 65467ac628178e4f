"""What a training with some settings is predicted to need: memory, time, and money."""
