"""The multiprocessing context: what multiprocessing promises, and that its processes' trees end with them."""
