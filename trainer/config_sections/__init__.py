"""The settings of a training, a section a file. `trainer.config.TrainingConfig` is all of them together."""
