"""The terms that are summed into the training loss, one a file."""
