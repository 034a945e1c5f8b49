"""Ground floor: one question to the operating system per module.

Standard library only. Knows nothing of pools, tasks or futures. The only floor that may signal a process.
"""
