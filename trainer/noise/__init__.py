"""What is put around a base's noise process and prompts while it trains, one a file."""
