"""Processes that train: started anew, or forked from one that has the libraries."""
