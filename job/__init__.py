"""One training job: its stages, output folder, verification, report and publishing."""
