"""The errors that a user can cause; each message says what, where, expected, got, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LanacError(Exception):
    """Base of every error that is the user's to mend: shown without a traceback, exit status 1."""


class CommandError(LanacError):
    """A command line whose parts do not go together."""


class SourceError(LanacError):
    """A model that cannot be found by its name, or whose trained weights cannot be loaded."""


class ModelFileError(LanacError):
    """The model file is missing, broken or lacks what lanac needs."""


class DataError(LanacError):
    """The data are missing, empty or do not fit the model or the loss."""


class TraceError(LanacError):
    """The teacher cannot be traced, or tracing would change what it computes."""


class ProgramError(LanacError):
    """An invariant of the program does not hold."""


class PoolError(LanacError):
    """An unknown family or option in a pool, or an op that does not fit its slot."""


class FamilyError(LanacError):
    """An op family that a user brought cannot be used; the message names its file and class."""


class TargetError(LanacError):
    """A target string that names no device, runtime or precision that lanac knows."""


class PredictionError(LanacError):
    """A latency that cannot be predicted: the network, the target or an anchor does not allow it."""


class BudgetError(LanacError):
    """A budget that is malformed, out of range or cannot be met."""


class InfeasibleBudgetError(BudgetError):
    """No choice of ops meets the budget; names the smallest budget that one does."""


class CostTableError(LanacError):
    """A cost table that is damaged, or was measured for something else."""


class SelectionError(LanacError):
    """A selection problem that is malformed, or a solver that failed."""


class BackendError(LanacError):
    """A backend cannot emit, or what it emitted does not agree with the student."""


class WorkspaceError(LanacError):
    """The workspace or the output folder cannot be used."""


class TrainingError(LanacError):
    """Training cannot go on."""


def first_line(error: BaseException) -> str:
    """What an error says first, without a full stop: for a message of one line."""
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown KIND 'NAME'; did you mean ...? Known: ...`, nearest names first."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
