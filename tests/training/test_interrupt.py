from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from lanac.training.interrupt import interrupt_between_steps


@pytest.fixture(autouse=True)
def usual_handler() -> Iterator[None]:
    """What a terminal has; a job in the background of a shell starts with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_is_held_back_and_the_second_is_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupt_between_steps() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupt_between_steps() as interrupted:
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert not interrupted()


def test_outside_the_main_thread_nothing_is_held_back() -> None:
    seen: list[bool] = []

    def work() -> None:
        with interrupt_between_steps() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt_between_steps() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
