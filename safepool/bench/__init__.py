"""How fast are process pools at the same work? ``python -m safepool bench`` measures whichever are installed.

A *measurement* is one case, done by one peer, once, in an interpreter of its own (``host``), which ``cage`` starts and
after which it ends whatever is left. ``run`` has the peers take turns at a case, so that what disturbs the machine for
a minute disturbs them all; ``report`` and ``plot`` show the medians. Workers import ``tasks``, and nothing else of it.
"""
