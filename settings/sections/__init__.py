"""The settings of a training, one section per file. `settings.training.TrainingConfig` contains all of them."""
