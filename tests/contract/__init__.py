"""One suite, two executors: what the standard library's process pool promises, asserted of both."""
