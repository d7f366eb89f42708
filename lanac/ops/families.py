"""The op families of one run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lanac.ir import OpSpec
from lanac.ops.base import FAMILIES, Family
from lanac.ops.fingerprint import fingerprint


@dataclass(frozen=True)
class OwnFamily:
    """A family that the user brought to a run.

    Attributes:
        family: the family.
        where: its file and class, for messages and reports: `my_ops.py, class Blur`.
        fingerprint: of its source when the run began.
    """

    family: Family
    where: str
    fingerprint: str

    @property
    def name(self) -> str:
        return self.family.name


class Families:
    """lanac's families, those of installed packages, and those that the user brought to this run.

    A value that a run carries, not a global one: two runs of one process may bring different
    families of one name.

    Args:
        own: what the user brought.

    Raises:
        PoolError: a name is taken.
    """

    def __init__(self, own: Iterable[OwnFamily] = ()) -> None:
        self.own = {item.name: item for item in own}
        brought = [item.family for item in self.own.values()]
        self._all = FAMILIES.having(brought) if brought else FAMILIES
        self._fingerprints = {name: item.fingerprint for name, item in self.own.items()}

    def get(self, name: str) -> Family:
        """The family of that name; raises PoolError with the nearest known names."""
        return self._all.get(name)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self._all.names()

    def is_lanacs(self, name: str) -> bool:
        """Whether a family is lanac's own, and neither the user's nor another package's."""
        return type(self.get(name)).__module__.partition(".")[0] == "lanac"

    def key(self, op: OpSpec) -> str:
        """What an op is, for keys: its text, and what the source of its family is if not lanac's."""
        name = op.family
        if name not in self._fingerprints:
            self._fingerprints[name] = "" if self.is_lanacs(name) else fingerprint(self.get(name))
        return f"{op} {self._fingerprints[name]}".rstrip()


INSTALLED = Families()
"""Without anything that the user brought."""
