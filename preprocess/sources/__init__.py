"""Data sources given by name: datasets of the Hugging Face hub, tables, lists of URLs, shards in object stores."""
