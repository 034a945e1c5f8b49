"""What workers are given to do in some of these tests."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import os
import resource
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time

from support import descendants, tasks
from support.rendezvous import pass_gate, report

SHELLS = ("nohup", "bash_m", "disowned", "terminal")
CHAINS = 10
MOST_LINKS = 5_000  # of each chain, should nobody catch it: half a minute

_SAY = 'echo "$0 $$" > "$1"; exec sleep 900'
# Every generation stays in the group, starts its successor, and leaves; ten at the same time.
_BOMB = """
import mmap, os, struct, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 8 * {chains})
chain = next(number for number in range({chains}) if number == {chains} - 1 or os.fork() == 0)
for generation in range(1, {most}):
    memory[8 * chain : 8 * chain + 8] = struct.pack("q", generation)
    if os.fork():
        os._exit(0)
    time.sleep(0.005)
"""
# Every generation is in a session of its own, starts its successor, and leaves at once; until it is told to stop.
_FLEETING = """
import mmap, os, struct, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 16)
generation = 0
while not memory[8]:
    generation += 1
    memory[:8] = struct.pack("q", generation)
    if os.fork():
        os._exit(0)
    os.setsid()
"""
# Overwrites its command line and the environment behind it, as setproctitle does.
_RETITLED = """
import ctypes, os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
with open("/proc/self/stat") as file:
    begin, end = map(int, file.read().rpartition(")")[2].split()[47:49])  # env_start, env_end
ctypes.memset(begin, 0, end - begin)
with open(sys.argv[2], "w") as file:
    file.write(f"{sys.argv[1]} {os.getpid()}\\n")
time.sleep(900)
"""


def start_shells(reports, label):
    """What people type: in the background, without hang-up, with job control, in a terminal of its own."""
    say = ["sh", "-c", _SAY]
    descendants.leave(["nohup", *say, f"{label}.nohup", reports])
    descendants.leave(["bash", "-c", 'set -m; sh -c "$0" "$1" "$2" & wait', _SAY, f"{label}.bash_m", reports])
    descendants.leave(["bash", "-c", 'sh -c "$0" "$1" "$2" & disown; wait', _SAY, f"{label}.disowned", reports])
    command = shlex.join([*say, f"{label}.terminal", reports])
    descendants.leave(["script", "-qec", command, "/dev/null"])
    report(reports, label)
    tasks.loop()


def start_untraceable(reports, label, gate):
    """Three that carry no trace, and one that has kept its parent."""
    say = ["sh", "-c", _SAY]
    descendants.leave(["sh", "-c", 'env -i setsid -f sh -c "$0" "$1" "$2"', _SAY, f"{label}.cleared", reports])
    descendants.leave([sys.executable, "-I", "-S", "-c", _RETITLED, f"{label}.retitled", reports])
    descendants.leave(["env", "-i", *say, f"{label}.same_session", reports])
    child = ["env", "-i", "setsid", *say, f"{label}.with_parent", reports]
    descendants.leave(["sh", "-c", f"{shlex.join(child)} & wait"])
    descendants.leave([*say, f"{label}.plain", reports], start_new_session=True)
    tasks.work_then_wait(reports, label, gate)
    tasks.loop()


def move_oneself(reports, label, gate):
    """Try to leave the group, and say what came of it."""
    answers = []
    for way in (os.setsid, lambda: os.setpgid(0, 0), lambda: os.setpgid(0, os.getppid())):
        try:
            way()
            answers.append("moved")
        except PermissionError:
            answers.append("refused")
    report(reports, label, ",".join(answers))
    pass_gate(gate)
    return (os.getpid(), os.getpgrp(), os.getsid(0))


def become_a_daemon(reports, label, gate):
    """Fork twice with a session between, and let the worker go: what is left is the daemon."""
    pass_gate(gate)
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    report(reports, label)
    tasks.loop()


def explode(reports, label, counter):
    descendants.leave([sys.executable, "-I", "-S", "-c", _BOMB.format(chains=CHAINS, most=MOST_LINKS), counter])
    report(reports, label)
    tasks.loop()


def start_fleeting(reports, label, counters, before=()):
    """Start chains of processes of which each lives for as long as it takes to fork, some others, and hang."""
    for counter in counters:
        descendants.leave([*before, sys.executable, "-I", "-S", "-c", _FLEETING, counter])
    descendants.start(descendants.KINDS, label, reports)
    report(reports, label)
    tasks.loop()


def hold_still(reports, label, group):
    """Start a process and have it frozen by a control group of version 1, where not even SIGKILL gets through."""
    process = subprocess.Popen(["sleep", "900"])
    for file, text in (("cgroup.procs", str(process.pid)), ("freezer.state", "FROZEN")):
        with open(os.path.join(group, file), "w", encoding="ascii") as control:
            control.write(text)
    report(reports, f"{label}.frozen", str(process.pid))
    descendants.start(("plain", "setsid"), label, reports)
    report(reports, label)
    tasks.loop()


def exit_with(status):
    os._exit(status)


def leave_by_system_exit():
    raise SystemExit(4)


def overflow_the_stack():
    """Recurse in C without end: nothing of the interpreter's notices, and the kernel ends it."""
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 10_000_000, 1)


def use_up_the_processor():
    resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    tasks.loop()


def take_a_realtime_signal():
    os.kill(os.getpid(), signal.SIGRTMIN + 3)


def use_up_the_memory():
    """With a limit of the kernel's, which is lifted again: the task fails, and the worker need not."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), limits[1]))
    try:
        return len(b"x" * (1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def leave_then(reports, label, gate, how, arguments=()):
    """Start descendants, wait at the gate, then end in this way."""
    tasks.work_then_wait(reports, label, gate, descendants.KINDS)
    globals()[how](*arguments)


def return_after(seconds):
    """Return so many seconds from now, as exactly as can be."""
    until = time.monotonic() + seconds
    time.sleep(max(0.0, seconds - 0.002))
    while time.monotonic() < until:
        pass


def open_terminal(reports, label):
    """Ask for the controlling terminal, which a worker has not got even where its host has."""
    report(reports, label)
    with open("/dev/tty", encoding="ascii") as terminal:
        return terminal.read(1)


def wait_for_a_child_that_reads_the_terminal(reports, label):
    """Have a terminal of one's own, and a child in its background that reads from it: the kernel stops that child."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    say = 'echo "$0 $$" > "$1"; exec cat /dev/tty'
    in_background = "import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-I", "-S", "-c", in_background, "sh", "-c", say, f"{label}.reader", reports]
    reader = subprocess.Popen(command, stdin=theirs)
    report(reports, label)
    reader.wait()
    return ours


def stay_when_all_is_over(reports, label):
    """Leave a thread behind that the interpreter waits for at its exit, and that never ends."""
    threading.Thread(target=tasks.loop).start()
    report(reports, label)


def leave_a_last_word(path, seconds):
    """Have an exit handler take its time, and write down that it came to its end."""
    atexit.register(_write_last_word, path, seconds)


def _write_last_word(path, seconds):
    time.sleep(seconds)
    with open(path, "w", encoding="ascii") as file:
        file.write("the end")


def can_write_to(folder):
    """Write a byte there; return the number of the error, if any."""
    try:
        with open(os.path.join(folder, "byte"), "wb", buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        return error.errno
    return 0


def sees_process(pid):
    return os.path.exists(f"/proc/{pid}")


def user():
    return os.getuid()


def start_as_another(reports, label, command):
    """Leave a process in the worker's group that a set-user-id program has made another user's; then hang."""
    descendants.leave(command)
    descendants.start(("plain", "setsid"), label, reports)
    report(reports, label)
    tasks.loop()


def length_of(size):
    """Make so many bytes."""
    return b"x" * size


def hang_holding_memory_in_a_file(reports: str, label: str, size: int) -> None:
    """Hang with so many bytes that only a descriptor keeps: it takes its time to die."""
    fd = os.memfd_create("held")
    piece = bytes(1 << 20)
    for _ in range(0, size, len(piece)):
        os.write(fd, piece)
    report(reports, label)
    tasks.loop()
