"""Users' regular expressions, run with limits."""
