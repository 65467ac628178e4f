"""dataset.html: the page that shows every decision about a dataset."""
