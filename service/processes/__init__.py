"""Child processes of the server: started or forked, read line by line, and stopped."""
