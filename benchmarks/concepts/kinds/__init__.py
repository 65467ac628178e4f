"""How each kind of concept is put together at random, and drawn."""
