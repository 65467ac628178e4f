"""From whatever people upload to a dataset they can look at. Knows neither trainer nor models."""
