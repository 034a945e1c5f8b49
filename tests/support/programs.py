"""Hosts as people write them: scripts that wait for their pool in one way or another."""

from __future__ import annotations

import textwrap

__all__ = ["IN_A_MAP", "IN_A_WITH_BLOCK", "WITHOUT_A_BLOCK", "waiting_program"]

_WAITING = """\
import sys
from safepool import SafeProcessPoolExecutor
from support import tasks

def main(reports, gate):
{body}

if __name__ == "__main__":
    main(*sys.argv[1:])
"""

IN_A_WITH_BLOCK = """\
with SafeProcessPoolExecutor(2) as pool:
    futures = [pool.submit(tasks.report_interrupts, reports, f"w{n}", gate) for n in range(2)]
    for future in futures:
        future.result()
"""

IN_A_MAP = """\
with SafeProcessPoolExecutor(2) as pool:
    list(pool.map(tasks.report_interrupts, [reports] * 9, [f"w{n}" for n in range(9)], [gate] * 9))
"""

WITHOUT_A_BLOCK = """\
pool = SafeProcessPoolExecutor(2)
futures = [pool.submit(tasks.report_interrupts, reports, f"w{n}", gate) for n in range(2)]
futures[0].result()
"""


def waiting_program(body: str) -> str:
    """A script whose workers wait at a gate and report every SIGINT, while it waits for them in this way."""
    return _WAITING.format(body=textwrap.indent(body, "    "))
