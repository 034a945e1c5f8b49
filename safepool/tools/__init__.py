"""Commands that look at a machine, and at pools from outside: what is promised here, what runs, what was left behind.

Read from /proc alone: pools keep no file and no socket for these, and need not be asked. A command is a module that
the command line (``cli``) names; ``marked`` finds the processes, ``pools`` says how they are, ``leftbehind`` which of
them nobody looks after any more, and the ``probes_`` modules try what the doctor reports on. ``leaks`` is for
programs rather than the command line, as a block, and as a fixture (``pytest_plugin``).
"""
