"""The concept lottery: things to be taught that nobody chose, drawn from a seed."""
