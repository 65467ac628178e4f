"""The terms of the training loss, one per file. They are summed."""
