"""Finds the faces in a picture, with whichever detector there is, and chooses the one that is the subject."""
