"""Scripts that make what is under assets/."""
