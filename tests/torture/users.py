"""Hosts of another user: a command that becomes the one behind it, as nobody in particular.

It may read every file, since the interpreter may lie in somebody's home; that gives it no power over processes.
"""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["AS_A_USER", "HIDDEN", "NEEDS_ROOT", "USER"]

USER = 61234  # of whom no process is expected

_READING = "dac_read_search"
_SETPRIV = [
    "setpriv",
    f"--reuid={USER}",
    f"--regid={USER}",
    "--clear-groups",
    f"--inh-caps=-all,+{_READING}",
    f"--ambient-caps=-all,+{_READING}",
]
_VIEW = ["unshare", "-m", "sh", "-c", 'mount -t proc -o "hidepid=$0" proc /proc && exec "$@"']
AS_A_USER = [*_VIEW, "0", *_SETPRIV]
HIDDEN = [*_VIEW, "2", *_SETPRIV]  # the processes of others do not appear in /proc

NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or None in map(shutil.which, ("setpriv", "unshare")),
    reason="becomes another user, and mounts, which needs root",
)
