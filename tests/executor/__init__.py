"""What safepool adds to the standard library's process pool, and what it does with bad input."""
