"""HTML pages in one file that needs no network: the shell, the colours and the theme that all of them share."""
