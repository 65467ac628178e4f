"""Which part of each picture is trained, at which size, with which mask."""
