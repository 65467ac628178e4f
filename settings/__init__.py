"""All settings of a training and their checks. Imports no other package."""
