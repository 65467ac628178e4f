"""One training job from an upload to a verified artifact: its stages, its output folder, and what it reports."""
