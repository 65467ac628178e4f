"""Detects faces with the available detector, and chooses the face of the subject."""
