"""A wake-up is never lost, never blocks, and never reaches a stranger."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from safepool._os.wakeup import Wakeup
from unit.brood import in_forked_child

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_descriptor_is_readable_from_set_until_clear(wakeup: Wakeup) -> None:
    assert not is_readable(wakeup.fd)
    wakeup.set()
    assert is_readable(wakeup.fd)
    assert is_readable(wakeup.fd)
    wakeup.clear()
    assert not is_readable(wakeup.fd)


def test_set_before_there_is_a_descriptor_is_seen() -> None:
    wakeup = Wakeup()
    wakeup.set()
    assert is_readable(wakeup.fd)
    wakeup.close()
    assert wakeup.fd == -1


def test_one_clear_takes_back_any_number_of_sets(wakeup: Wakeup) -> None:
    for _ in range(1000):
        wakeup.set()
    wakeup.clear()
    assert not is_readable(wakeup.fd)


def test_clear_without_a_set_does_not_block(wakeup: Wakeup) -> None:
    wakeup.clear()
    wakeup.set()
    assert is_readable(wakeup.fd)


def test_set_beyond_what_the_kernel_counts_does_not_block_and_is_not_lost(wakeup: Wakeup) -> None:
    os.eventfd_write(wakeup.fd, 2**64 - 2)
    wakeup.set()
    assert is_readable(wakeup.fd)


def test_signal_handler_can_wake_the_thread_that_is_setting(wakeup: Wakeup, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.eventfd_write

    assert wakeup.fd >= 0

    def interrupted(fd: int, value: int) -> None:
        monkeypatch.setattr(os, "eventfd_write", write)
        signal.raise_signal(signal.SIGUSR1)
        write(fd, value)

    before = signal.signal(signal.SIGUSR1, lambda *_: wakeup.set())
    try:
        monkeypatch.setattr(os, "eventfd_write", interrupted)
        wakeup.set()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert os.eventfd_read(wakeup.fd) == 2


def test_set_after_close_reaches_nobody_who_was_given_the_number(wakeup: Wakeup) -> None:
    number = wakeup.fd
    wakeup.close()
    stranger = os.eventfd(0, os.EFD_NONBLOCK)
    assert stranger == number
    wakeup.set()
    wakeup.close()
    assert not is_readable(stranger)
    os.close(stranger)


def test_descriptor_goes_with_the_last_reference() -> None:
    wakeup = Wakeup()
    number = wakeup.fd
    del wakeup
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_set_and_close_stand_a_program_that_closed_all_of_its_descriptors() -> None:
    def survive() -> str:
        wakeup = Wakeup()
        os.close(wakeup.fd)
        wakeup.set()
        wakeup.close()
        return "survived"

    assert in_forked_child(survive) == "survived"


def test_wake_up_that_finds_no_descriptor_fails_and_leaves_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    monkeypatch.setattr(os, "eventfd", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        assert Wakeup().fd
    gc.collect()
    assert [str(unraisable.exc_value) for unraisable in noise] == []


def test_descriptor_is_not_inherited(wakeup: Wakeup) -> None:
    assert not os.get_inheritable(wakeup.fd)
