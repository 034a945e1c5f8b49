"""Top floor: the pool's policy, its one thread, and the public classes."""
