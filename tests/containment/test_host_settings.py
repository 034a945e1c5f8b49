"""What belongs to the host stays as it was: a pool that ran and killed has touched nothing of it."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from safepool import SafeProcessPoolExecutor, TaskTimeoutError, WorkerDiedError
from support import tasks
from support.halves import HALVES, take

pytestmark = pytest.mark.timeout(120)

PR_GET_PDEATHSIG = 2
PR_GET_CHILD_SUBREAPER = 37


def settings():
    umask = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return {
        "handlers": {signum: signal.getsignal(signum) for signum in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "wake-up descriptor": wakeup_fd(),
        "umask": umask[1],
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "group and session": (os.getpgrp(), os.getsid(0)),
        "child subreaper": prctl(PR_GET_CHILD_SUBREAPER),
        "parent death signal": prctl(PR_GET_PDEATHSIG),
        "limits": [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "faulthandler": faulthandler.is_enabled(),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "start method": multiprocessing.get_start_method(allow_none=True),
    }


def wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def prctl(option):
    value = ctypes.c_int(-1)
    assert ctypes.CDLL(None).prctl(option, ctypes.byref(value), 0, 0, 0) == 0
    return value.value


def exit_code_of_a_child():
    return subprocess.run(["sh", "-c", "exit 7"], check=False).returncode


@pytest.fixture(params=["standard", *HALVES])
def containment(request, monkeypatch):
    """As the pool's argument, kept in this way."""
    if request.param == "standard":
        return "standard"
    take(request.param, monkeypatch)
    return "strict"


def test_settings_of_the_host_are_unchanged_by_a_pool_that_ran_and_killed(meeting, containment):
    before = settings()
    with SafeProcessPoolExecutor(2, containment=containment) as pool:
        assert pool.submit(tasks.square, 7).result(60) == 49
        assert isinstance(pool.submit(tasks.exit_now, 3).exception(60), WorkerDiedError)
        hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "deaf", ("setsid",), task_timeout=2.0)
        meeting.expect("hung.setsid")
        assert isinstance(hung.exception(60), TaskTimeoutError)
        during = settings()
    assert during == before
    assert settings() == before


def test_children_of_the_host_keep_their_exit_codes(meeting, containment):
    with SafeProcessPoolExecutor(2, containment=containment) as pool:
        deaths = [pool.submit(tasks.exit_now, 3) for _ in range(6)]
        assert [exit_code_of_a_child() for _ in range(20)] == [7] * 20
        assert all(isinstance(death.exception(60), WorkerDiedError) for death in deaths)
        own = subprocess.Popen(["sh", "-c", "exit 7"])
        hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "loop", ("setsid",), task_timeout=2.0)
        assert isinstance(hung.exception(60), TaskTimeoutError)
    assert own.wait(60) == 7, "somebody else took the status of the host's own child"
    assert exit_code_of_a_child() == 7
