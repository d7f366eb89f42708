"""torch.export, for modules that torch.fx cannot trace: graphs of ATen operators."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def export_program(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None, dynamic_shapes: Any
) -> torch.export.ExportedProgram:
    """Exports a module without a word.

    Args:
        module: in eval mode.
        args: example arguments.
        kwargs: example keywords.
        dynamic_shapes: what torch.export takes under this name.

    Raises:
        Exception: whatever torch.export raises for a module that it cannot express.
    """
    with torch.no_grad(), _silence():
        return torch.export.export(
            module, args, kwargs or None, dynamic_shapes=dynamic_shapes, strict=False
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """torch.export logs and prints pages about what it then raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
