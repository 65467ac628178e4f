"""The settings of a training, a section a file. `settings.training.TrainingConfig` is all of them together."""
