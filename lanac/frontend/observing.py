"""What flows through a traced graph: tensors, sizes, and memory written under another name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from lanac.errors import TraceError, first_line
from lanac.frontend.fakes import call_leaf, fake_mode
from lanac.frontend.keeping import attributes_kept
from lanac.ir import TensorSpec, flatten_tensors, is_in_place


@dataclass(frozen=True)
class Observation:
    """What one run of a graph showed, by node name.

    Attributes:
        specs: spec of every tensor.
        carriers: nodes whose value is a tensor or holds one (a tuple of chunks).
        values: everything else: sizes, numbers, dtypes.
        hidden_reads: pairs (writer, reader): the reader reads memory that the writer wrote, without
            an edge between them, as a write through a view brings about.
    """

    specs: dict[str, TensorSpec]
    carriers: frozenset[str]
    values: Mapping[str, Any]
    hidden_reads: frozenset[tuple[str, str]]


def observe(
    module: fx.GraphModule, inputs: Sequence[Tensor], mode: FakeTensorMode | None = None
) -> Observation:
    """Runs a graph on fake tensors, or on real ones where it needs their values.

    Args:
        module: its graph has been through `show_writes`.
        inputs: example inputs; they are not changed.
        mode: from `fake_mode`.

    Raises:
        TraceError: the graph does not run.
    """
    mode = mode or fake_mode()
    observer = _Observer(module, is_fake=True)
    with attributes_kept(module):
        try:
            fake = [mode.from_tensor(value) for value in inputs]
            with mode, torch.no_grad():
                observer.run(*fake)
        except Exception:  # control flow on values inside an opaque module
            observer = _Observer(module, is_fake=False)
            _run_on_values(observer, module, inputs)
    return Observation(
        observer.specs,
        frozenset(observer.carriers),
        observer.values,
        frozenset(observer.hidden_reads),
    )


def _run_on_values(observer: _Observer, module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    try:
        with torch.no_grad():
            observer.run(*(value.clone() for value in inputs))
    except Exception as error:
        node = next((n for n in module.graph.nodes if n.name == observer.current), None)
        what = "" if node is None else f" at {node.format_node()}"
        raise TraceError(
            f"the traced graph does not run{what}: {type(error).__name__}: "
            f"{first_line(error)}. Functions that call functions (torch.vmap) and "
            "gradients inside forward() cannot be traced; take them out."
        ) from error


class _Observer(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, is_fake: bool) -> None:
        super().__init__(module)
        self._is_fake = is_fake
        self.specs: dict[str, TensorSpec] = {}
        self.carriers: set[str] = set()
        self.current = ""
        self.values: dict[str, Any] = {}
        self.hidden_reads: set[tuple[str, str]] = set()
        self._root = module
        self._places = {node: place for place, node in enumerate(module.graph.nodes)}

    def run_node(self, n: fx.Node) -> Any:
        self.current = n.name
        if n.args and isinstance(n.args[0], fx.Node) and is_in_place(self._root, n):
            written = self.env.get(n.args[0])
            if isinstance(written, Tensor):
                self._find_hidden_reads(n, written)
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.specs[n.name] = TensorSpec.of(value)
        if flatten_tensors(value):
            self.carriers.add(n.name)
        else:
            self.values[n.name] = value
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_fake:
            return call_leaf(self._root.get_submodule(str(target)), args, kwargs)
        return super().call_module(target, args, kwargs)

    def _find_hidden_reads(self, writer: fx.Node, written: Tensor) -> None:
        memory = written.untyped_storage()._cdata
        for other, value in self.env.items():
            is_alias = isinstance(value, Tensor) and value.untyped_storage()._cdata == memory
            if is_alias and other is not writer.args[0]:
                later = (u for u in other.users if self._places[u] > self._places[writer])
                self.hidden_reads |= {(writer.name, reader.name) for reader in later}
