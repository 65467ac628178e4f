"""Opens the user's data: archives, folders, URLs, and their image files."""
