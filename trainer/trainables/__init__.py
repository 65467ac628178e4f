"""Groups of trained parameters, each with its optimizer, schedule and weight average."""
