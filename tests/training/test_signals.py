"""Trainings and the process that they run in."""

from __future__ import annotations

import signal
import threading

import pytest

from cirbench.benchmark.training.signals import uninterrupted


def test_ctrl_c_waits_for_the_end_of_a_block():
    done = []

    def work():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["whole"]


def test_a_callers_thread_needs_no_signals():
    before, failed = signal.getsignal(signal.SIGINT), []

    def work():
        try:
            with uninterrupted():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (failed, signal.getsignal(signal.SIGINT)) == ([], before)
