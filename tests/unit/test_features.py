"""What is missing is found out by trying; what is masked is missing; want of descriptors says nothing of the kernel."""

from __future__ import annotations

import errno
import os

import pytest

from safepool._os import features

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def as_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has asked for nothing yet."""
    monkeypatch.setattr(features, "_missing", {})
    monkeypatch.setattr(features, "_disabled", None)
    monkeypatch.setattr(features, "_is_announced", False)
    monkeypatch.delenv(features.VARIABLE, raising=False)


def refusing(error: OSError):
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("name", ["pidfd", "setsig", "memfd", "proc"])
def test_what_the_tests_of_this_library_need_is_there(name: str) -> None:
    assert features.has(name)
    assert features.why_not(name) == ""


@pytest.mark.parametrize("name", features.COSTS)
def test_what_is_masked_is_missing_and_nothing_else(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(features.VARIABLE, f" {name} ,")
    assert features.why_not(name) == "disabled by SAFEPOOL_DISABLE"
    assert all(features.has(other) for other in features.COSTS if other != name)


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_empty_variable_masks_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(features.VARIABLE, value)
    assert features.disabled() == frozenset()


@pytest.mark.parametrize("value", ["luck", "pidfd,luck", "pidfd;proc", "PIDFD"])
def test_unknown_name_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(features.VARIABLE, value)
    for ask in (features.disabled, features.announce, lambda: features.has("pidfd")):
        with pytest.raises(ValueError, match=r"SAFEPOOL_DISABLE must name mechanisms \(setsig, pidfd, .*, not '"):
            ask()


def test_variable_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert features.has("pidfd")
    monkeypatch.setenv(features.VARIABLE, "proc")
    assert features.has("proc")


@pytest.mark.parametrize(("name", "call"), [("pidfd", "pidfd_open"), ("memfd", "memfd_create"), ("proc", "readlink")])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_what_the_kernel_refuses_is_missing(monkeypatch: pytest.MonkeyPatch, name: str, call: str, number: int) -> None:
    monkeypatch.setattr(os, call, refusing(OSError(number, os.strerror(number))))
    assert os.strerror(number) in features.why_not(name)
    assert not features.has(name)


@pytest.mark.parametrize("call", ["pidfd_open", "memfd_create"])
def test_call_that_the_interpreter_lacks_is_missing(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.delattr(os, call)
    assert call in features.why_not(call.split("_", maxsplit=1)[0])


def test_want_of_descriptors_is_told_and_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as few:
        few.setattr(os, "pidfd_open", refusing(OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(OSError, match="Too many open files"):
            features.has("pidfd")
        features.announce()  # has no business to fail for that
    assert features.has("pidfd")


def test_proc_of_another_namespace_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert "another namespace" in features.why_not("proc")


def test_what_the_kernel_lacks_is_a_warning_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "memfd_create", refusing(OSError(errno.ENOSYS, "Function not implemented")))
    for _ in range(3):
        features.announce()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("safepool", "WARNING")
    assert record.getMessage().startswith("no memfd here ([Errno 38] Function not implemented): large data go through")
