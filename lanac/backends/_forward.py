"""The forward method of a traced graph as source that reads like written by hand."""

from __future__ import annotations

import builtins
import inspect
import keyword
import operator
import re
from collections.abc import Callable, Mapping

from torch import fx

from lanac.backends._functions import MODULES, copied_functions, torch_name
from lanac.backends._leaves import source
from lanac.backends._structures import field_defaults, is_structure, structures_of
from lanac.backends._switches import Switch
from lanac.errors import BackendError

# Values that are used once flow through these; values that live longer get names of their own.
_PASSING = ("x", "y", "z", "u", "v", "w")
_RESERVED = {*keyword.kwlist, *dir(builtins), *_PASSING, *MODULES, "self"}
_INFIX: Mapping[object, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lshift: "<<",
    operator.rshift: ">>",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_IN_PLACE: Mapping[object, str] = {
    operator.iadd: "+=",
    operator.isub: "-=",
    operator.imul: "*=",
    operator.itruediv: "/=",
    operator.ifloordiv: "//=",
    operator.imod: "%=",
    operator.ipow: "**=",
    operator.imatmul: "@=",
    operator.iand: "&=",
    operator.ior: "|=",
    operator.ixor: "^=",
}
_PREFIX: Mapping[object, str] = {operator.neg: "-", operator.invert: "~", operator.pos: "+"}


_NO_DEFAULT = object()


def _defaults(target: object) -> dict[str, object]:
    """Defaults of a Python function or dataclass: fx writes arguments out that nobody gave."""
    if not inspect.isfunction(target):
        return field_defaults(target)
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def write_forward(
    graph: fx.Graph,
    attributes: Mapping[str, tuple[str, ...]],
    where: str,
    functions: dict[str, str],
) -> tuple[str, ...]:
    """The lines of `def forward(self, ...)`, not indented.

    Args:
        graph: the graph.
        attributes: for each target of a call_module or get_attr node the attributes that stand
            for it; several are called one after the other.
        where: the module, for messages.
        functions: gets the source of called functions that are not torch's, by name.

    Raises:
        BackendError: a node calls something that cannot be written.
    """
    return _ForwardWriter(graph, attributes, where, functions).write()


class _ForwardWriter:
    """Walks one graph; `names` holds the variable (or expression) of every value seen."""

    def __init__(
        self,
        graph: fx.Graph,
        attributes: Mapping[str, tuple[str, ...]],
        where: str,
        functions: dict[str, str],
    ) -> None:
        self.graph, self.attributes, self.where = graph, attributes, where
        self.functions = functions
        self.names: dict[fx.Node, str] = {}
        self.last_use: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            for value in node.all_input_nodes:
                self.last_use[value] = node
        self.live: dict[str, fx.Node] = {}
        self.taken: set[str] = set(structures_of(graph))

    def write(self) -> tuple[str, ...]:
        lines: list[str] = []
        parameters = ["self"]
        for node in self.graph.nodes:
            if node.op == "placeholder":
                parameters.append(self._parameter(node))
            elif node.op == "output":
                lines.append(self._return(node, lines))
            elif node.op == "get_attr":
                self.names[node] = f"self.{self.attributes[node.target][0]}"
            elif node.op == "call_function" and node.target in _IN_PLACE:
                lines += [f"    {line}" for line in self._in_place(node)]
            elif not node.users:
                lines.append(f"    {self._expression(node)}")
            else:
                expression = self._expression(node)
                lines.append(f"    {self._assign(node)} = {expression}")
        return (f"def forward({', '.join(parameters)}):", *lines)

    def _return(self, node: fx.Node, lines: list[str]) -> str:
        value = node.args[0]
        name = self._text(value, node)
        before = f"    {name} = "
        is_last = isinstance(value, fx.Node) and len(value.users) == 1 and node.prev is value
        if is_last and lines and lines[-1].startswith(before):
            return f"    return {lines.pop().removeprefix(before)}"
        return f"    return {name}"

    def _parameter(self, node: fx.Node) -> str:
        name = self._claim(re.sub(r"\W", "_", str(node.target)), node, passing=True)
        return f"{name}={self._text(node.args[0], node)}" if node.args else name

    def _in_place(self, node: fx.Node) -> list[str]:
        left, right = node.args
        sign, operand = _IN_PLACE[node.target], self._text(right, node)
        # Python's `y += x` on a name that nobody reads again; the tensor changes either way.
        if isinstance(left, fx.Node) and self.last_use[left] is node and self._owns(left):
            before = self.names[left]
            self.names[node] = before
            self._release(node)
            self.live[before] = node
            return [f"{before} {sign} {operand}"]
        text = self._text(left, node)
        # A name of its own: that of an operand would be overwritten before the operand is read.
        name = self._claim(self._wish(node), node)
        self._release(node)
        return [f"{name} = {text}", f"{name} {sign} {operand}"]

    def _owns(self, value: fx.Node) -> bool:
        return self.live.get(self.names[value]) is value

    def _release(self, node: fx.Node) -> None:
        """Frees the names of values that `node` is the last to use."""
        for value in node.all_input_nodes:
            if self.last_use[value] is node and self._owns(value):
                del self.live[self.names[value]]

    def _assign(self, node: fx.Node) -> str:
        """The name that the result of `node` gets."""
        self._release(node)
        if len(node.users) == 1:
            inputs = [self.names[value] for value in node.all_input_nodes]
            for name in (*inputs, *_PASSING):
                if name in _PASSING and name not in self.live:
                    return self._claim(name, node, passing=True)
        return self._claim(self._wish(node), node)

    def _claim(self, wish: str, node: fx.Node, passing: bool = False) -> str:
        """Gives `node` the wished name, or the next free one like it."""
        stem = wish if passing or wish not in _RESERVED else f"{wish}_"
        name, count = stem, 1
        while name in self.live or name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        if name not in _PASSING:
            self.taken.add(name)
        self.names[node] = name
        self.live[name] = node
        return name

    def _wish(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return self.attributes[str(node.target)][-1]
        if node.target is getattr:
            return str(node.args[1])
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        return "item" if name == "getitem" else re.sub(r"\W", "_", name).strip("_") or "value"

    def _expression(self, node: fx.Node) -> str:
        if node.op == "call_module":
            text = self._arguments(node, node.args)
            for attribute in self.attributes[str(node.target)]:
                text = f"self.{attribute}({text})"
            return text
        if node.op == "call_method":
            owner = self._text(node.args[0], node)
            return f"{owner}.{node.target}({self._arguments(node, node.args[1:])})"
        return self._call(node)

    def _call(self, node: fx.Node) -> str:
        target, args = node.target, node.args
        if target is getattr and len(args) == 2 and str(args[1]).isidentifier():
            return f"{self._text(args[0], node)}.{args[1]}"
        if target is operator.getitem:
            index = args[1]
            items = index if isinstance(index, tuple) and index else (index,)
            comma = "," if isinstance(index, tuple) and len(index) == 1 else ""
            text = ", ".join(self._text(item, node, in_index=True) for item in items) + comma
            return f"{self._text(args[0], node)}[{text}]"
        if target in _INFIX and not node.kwargs:
            left, right = (self._text(value, node) for value in args)
            left = f"({left})" if left.startswith("-") else left
            return f"{left} {_INFIX[target]} {right}"
        if target in _PREFIX:
            return f"{_PREFIX[target]}{self._text(args[0], node)}"
        if callable(target):
            return f"{self._function(target, node)}({self._arguments(node, args)})"
        raise self._error(node, f"{target!r} is not a function")

    def _function(self, target: Callable[..., object], node: fx.Node) -> str:
        if is_structure(target):
            return target.__name__
        name = torch_name(target)
        if name is None:
            try:
                copied = copied_functions(target)
            except ValueError as error:
                raise self._error(node, str(error)) from error
            self.functions |= copied
            name = list(copied)[-1]
            self.taken.add(name)
        return name

    def _arguments(self, node: fx.Node, args: tuple[object, ...]) -> str:
        texts = [self._text(value, node) for value in args]
        defaults = _defaults(node.target)
        for name, value in node.kwargs.items():
            default = defaults.get(name, _NO_DEFAULT)
            if isinstance(value, fx.Node) or type(value) is not type(default) or value != default:
                texts.append(f"{name}={self._text(value, node)}")
        return ", ".join(texts)

    def _text(self, value: object, node: fx.Node, in_index: bool = False) -> str:
        """A graph argument as source."""
        if isinstance(value, fx.Node):
            return self.names[value]
        if isinstance(value, Switch):
            if (value.in_training, value.in_evaluation) == (True, False):
                return "self.training"
            modes = (value.in_training, value.in_evaluation)
            text = " if self.training else ".join(self._text(mode, node) for mode in modes)
            return f"({text})" if node.target in _INFIX or node.target in _IN_PLACE else text
        if isinstance(value, tuple):
            items = [self._text(item, node) for item in value]
            if is_structure(type(value)):
                return f"{type(value).__name__}({', '.join(items)})"
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        if isinstance(value, list):
            return f"[{', '.join(self._text(item, node) for item in value)}]"
        if isinstance(value, dict):
            items = [f"{source(key)}: {self._text(item, node)}" for key, item in value.items()]
            return f"{{{', '.join(items)}}}"
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            if not in_index:
                return f"slice({', '.join(self._text(part, node) for part in parts)})"
            texts = ["" if part is None else self._text(part, node) for part in parts]
            return ":".join(texts if texts[2] else texts[:2])
        try:
            return source(value)
        except ValueError as error:
            raise self._error(node, str(error)) from error

    def _error(self, node: fx.Node, why: str) -> BackendError:
        return BackendError(
            f"cannot write node {node.name!r} of {self.where} as PyTorch source: {why}. "
            "Put the code into a module that torch.fx traces to functions of torch, or emit ONNX "
            "only (--emit onnx)."
        )
