"""Instruments: what watches a compilation. Passes report here and never print."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]

_log = logging.getLogger("lanac")


class Instruments:
    """Watches a compilation; this one writes to the log. The command line shows a screen."""

    def pass_started(self, name: str) -> None:
        _log.info("%s: started", name)

    def pass_finished(self, name: str, seconds: float) -> None:
        _log.info("%s: finished in %.1f s", name, seconds)

    def say(self, message: str) -> None:
        """Something that a user wants to know."""
        _log.info(message)

    def warn(self, message: str) -> None:
        """Something that went wrong without ending the run."""
        _log.warning(message)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Work of `total` equal steps, `done` of which are there already."""
        yield lambda steps: None
