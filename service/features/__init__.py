"""The command that encodes images to shards of features."""
