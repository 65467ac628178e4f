"""Opens what the user gave: archives, folders, URLs, and the image files inside."""
