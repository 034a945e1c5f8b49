"""Middle floor: what crosses the boundary between host and worker, and the worker itself."""
