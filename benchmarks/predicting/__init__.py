"""Time of the predictor, and changes of its images by options."""
