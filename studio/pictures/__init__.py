"""Preparation of dropped files, edits of the prepared dataset, and how a picture is shown."""
