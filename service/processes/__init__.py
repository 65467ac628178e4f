"""Processes beside the server: started or forked, read line by line, and stopped."""
