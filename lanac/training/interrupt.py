"""Ctrl-C between two steps: training ends where a checkpoint can be written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Holds back the first Ctrl-C; yields a function that says whether there was one.

    Who sees it writes a checkpoint and raises KeyboardInterrupt. A second Ctrl-C is not held back.
    Outside the main thread nothing is held back: Python delivers no signals there. Where Ctrl-C is
    ignored, as in a job of a shell's background, it stays ignored.
    """
    usual = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or usual in (signal.SIG_IGN, None):
        yield lambda: False
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, usual)
