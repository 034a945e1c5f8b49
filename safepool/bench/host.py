"""The program of a measurement: ``python -m safepool.bench.host CALL`` makes one call and prints what it returned.

It is the ``__main__`` that spawned workers import, so it is as small as a program's that cares, and guarded.
"""

import sys

if __name__ == "__main__":
    import importlib
    import json
    import os

    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries and tasks print is no answer
    call = json.loads(sys.argv[1])
    module, _, name = call["function"].partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**call["arguments"])
    except BaseException as error:
        result = {"error": f"{type(error).__name__}: {error}"}
        sys.excepthook(*sys.exc_info())
    os.write(answer, json.dumps(result).encode() + b"\n")
    os.close(answer)
    sys.stderr.flush()
    os._exit(0)  # a pool that cannot end has been measured all the same: its exit handlers are not waited for
