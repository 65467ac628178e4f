"""The studio: a page on this machine that drives the code of train.py and predict.py. Built on Gradio."""
