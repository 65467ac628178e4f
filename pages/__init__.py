"""Shared parts of the HTML pages: page frame, style sheet and charts. A page is one file and needs no network."""
