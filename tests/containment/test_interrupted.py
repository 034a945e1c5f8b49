"""Ctrl-C at a terminal (all ways in which programs end are in ``torture``)."""

from __future__ import annotations

import os
import signal

import pytest

from support.handles import gone
from support.programs import IN_A_WITH_BLOCK, waiting_program

pytestmark = pytest.mark.timeout(120)


def test_ctrl_c_ends_the_program_and_only_the_host_hears_of_it(make_program, terminal):
    program = make_program()
    gate = program.gate("gate")
    program.run_text(waiting_program(IN_A_WITH_BLOCK), gate.path, terminal=terminal["theirs"])
    workers = program.hold_reported(["w0", "w1"])

    os.write(terminal["ours"], b"\x03")

    assert program.finish() == -signal.SIGINT
    gone(workers)
    program.leaves_nothing()
    assert program.stderr.count("Traceback") == 1, program.stderr
    assert not [report for report in program.rendezvous.reports if report.label.endswith(".sigint")]
