"""``safepool run``: any command, contained as a worker is."""
