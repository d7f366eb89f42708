"""Op families: what may fill a slot. One file per family, found by its `FAMILY`."""

from lanac.ops.base import FAMILIES, Family, SlotView

__all__ = ["FAMILIES", "Family", "SlotView"]
