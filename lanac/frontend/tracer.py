"""The tracer: torch.fx, with switches kept and conditions on shapes decided by the example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lanac.errors import first_line
from lanac.frontend.fakes import call_leaf, fake_mode
from lanac.ir import run_node, set_items_

_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Embedding,
)


_FACTORIES = (
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.zeros,
)
"""They take sizes, no tensors, so that torch.fx does not see them by itself."""


class Undecidable(Exception):
    """Tracing met what the graph cannot hold, such as a condition that shapes do not decide."""


class ShapeTracer(fx.Tracer):
    """Symbolic tracing that asks for a value only where Python has to know it.

    - Modules that behave differently in training stay leaves: tracing through them would run their
      `if self.training` once and bake the answer into the graph.
    - Layers derived from those of torch.nn (a convolution with padding of its own) stay leaves.
    - A condition, a length or a count is decided by the shapes of the example, on fake tensors:
      nothing is computed, and what would depend on the data is refused. Everything else that is
      computed of shapes stays in the graph, so that the batch size stays free.
    - A function with a backward of its own is refused: only its forward would be in the graph.
    - Modules named `opaque` are called as a whole.

    Args:
        inputs: example inputs, batch first.
        names: the arguments of `forward` that the inputs are for, where given by keyword.
        opaque: paths of modules that are not traced.
        mode: from `fake_mode`; one for all that is run with the same weights saves time.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        names: Sequence[str] = (),
        opaque: frozenset[str] = frozenset(),
        mode: FakeTensorMode | None = None,
    ) -> None:
        super().__init__(autowrap_functions=_FACTORIES, param_shapes_constant=True)
        self._autowrap_search.append(torch)
        self._inputs, self._names, self._opaque = tuple(inputs), tuple(names), opaque
        self._example = _Example(self, mode or fake_mode())

    def trace(
        self,
        root: nn.Module | Callable[..., Any],
        concrete_args: dict[str, Any] | None = None,
    ) -> fx.Graph:
        apply = vars(torch.autograd.Function)["apply"]

        def call(cls: type, *args: Any, **kwargs: Any) -> Any:
            if any(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values())):
                raise Undecidable(f"{cls.__name__} (torch.autograd.Function) has its own backward")
            return apply.__get__(None, cls)(*args, **kwargs)

        with mock.patch.object(torch.autograd.Function, "apply", classmethod(call)):
            graph = super().trace(root, concrete_args)
        for node in graph.nodes:
            # Generated code would register torch's own functions with torch.fx under names that
            # it does not find, and every later trace of the process would fail.
            node.meta.pop("is_wrapped", None)
            if node.target is set_items_:
                node.meta["is_wrapped"] = True  # so that it stays one call where it is traced again
        return graph

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        if qualified_name in self._opaque or super().is_leaf_module(module, qualified_name):
            return True
        if isinstance(module, _LAYERS):
            return True
        children_have_weights = any(
            next(child.parameters(), None) is not None for child in module.children()
        )
        return not children_have_weights and asks_for_training(type(module).forward)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: object = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """A placeholder per example input; further arguments keep their defaults."""
        self._buffers = {id(value): name for name, value in self.root.named_buffers()}
        names = self._names or _positional_names(root_fn, len(self._inputs))
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in names]
        self._example.start([proxy.node for proxy in proxies], self._inputs)
        keywords = dict(zip(self._names, proxies, strict=False))
        positional = [] if keywords else proxies
        # Called as a model is called: its hooks run, and a forward that was set on it.
        call = cast(Callable[..., Any], nn.Module._call_impl)
        return (lambda *_: call(self.root, *positional, **keywords)), []

    def create_arg(self, a: Any) -> Any:
        # Dictionaries that are dataclasses as well (outputs of Hugging Face) would become plain.
        fields = getattr(type(a), "__dataclass_fields__", None)
        if isinstance(a, dict) and fields is not None:
            given = {name: getattr(a, name) for name in fields if getattr(a, name) is not None}
            values = {name: self.create_arg(value) for name, value in given.items()}
            return self.create_node("call_function", type(a), (), values)
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Decided(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._example.is_running:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._example.is_running or not isinstance(attr_val, Tensor):
            return attr_val
        if isinstance(attr_val, nn.Parameter):
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        # A buffer becomes a node: what is made of it and of sizes must not be baked.
        name = self._buffers.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def decide(self, proxy: fx.Proxy, kind: Callable[[Any], Any], what: str) -> Any:
        """`kind` of the value that Python needs; Undecidable where the shapes do not tell."""
        return self._example.value(proxy.node, kind, what)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.decide(obj, bool, "a condition"))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = self.decide(obj, len, "the number of items")
        return (obj[place] for place in range(count))  # type: ignore[index]

    def keys(self, obj: fx.Proxy) -> Any:
        return self.decide(obj, list, "the names of items")


def asks_for_training(function: Callable[..., Any]) -> bool:
    """Whether a function of a module reads its `training` flag."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and "training" in code.co_names


def _positional_names(forward: Callable[..., Any], count: int) -> list[str]:
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


class _Decides:
    """What Python insists on knowing of a value."""

    def _decide(self, kind: Callable[[Any], Any], what: str) -> Any:
        proxy = cast(fx.Proxy, self)
        return cast(ShapeTracer, proxy.tracer).decide(proxy, kind, what)

    def __len__(self) -> int:
        return int(self._decide(len, "the number of items"))

    def __int__(self) -> int:
        return int(self._decide(int, "a whole number"))

    def __index__(self) -> int:
        return self.__int__()

    def __float__(self) -> float:
        return float(self._decide(float, "a number"))

    def __contains__(self, item: object) -> bool:
        return bool(self._decide(lambda value: item in value, "a condition"))


class _Decided(_Decides, fx.Proxy):
    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", set_items_, (self, place, value), {})

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Attribute(_Decides, fx.proxy.Attribute):
    def __getattr__(self, k: str) -> Any:
        if (self.attr, k) == ("device", "type"):
            return self._decide(lambda device: device.type, "the kind of device")  # for autocast
        return _Attribute(self, k)


class _Example:
    """Values of nodes on fake tensors, for the example's batch size and for another one."""

    def __init__(self, tracer: ShapeTracer, mode: FakeTensorMode) -> None:
        self._tracer, self._mode = tracer, mode
        self.is_running = False
        self._values: list[dict[fx.Node, Any]] = []

    def start(self, nodes: Sequence[fx.Node], inputs: Sequence[Tensor]) -> None:
        for batch in (inputs, larger_batch(inputs)):
            if batch is not None:
                fake = [self._mode.from_tensor(value) for value in batch]
                self._values.append(dict(zip(nodes, fake, strict=True)))

    def value(self, node: fx.Node, kind: Callable[[Any], Any], what: str) -> Any:
        found = []
        for values in self._values:
            self.is_running = True
            try:
                with self._mode, torch.no_grad():
                    found.append(kind(self._evaluate(node, values)))
            except Exception as error:
                if found:
                    break  # it does not run with another batch size: the example's has to do
                raise Undecidable(f"{what} {_reason(error)}") from error
            finally:
                self.is_running = False
        if len(found) > 1 and found[0] != found[1]:
            raise Undecidable(f"{what} depends on the batch size")
        return found[0]

    def _evaluate(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        stack = [node]
        while stack:
            current = stack[-1]
            missing = [source for source in current.all_input_nodes if source not in values]
            if current in values:
                stack.pop()
            elif missing:
                stack += missing
            else:
                values[current] = self._run(current, values)
                stack.pop()
        return values[node]

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        arguments = fx.node.map_arg(node.args, values.__getitem__)
        keywords = fx.node.map_arg(node.kwargs, values.__getitem__)
        return run_node(self._tracer.root, node, arguments, keywords, call_leaf)


def other_batch(inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """The inputs in another batch size: the first sample, or where there is one only, it twice.

    None where they do not share a batch dimension.
    """
    if not _share_batch(inputs):
        return None
    return [value[:1].clone() if len(value) > 1 else torch.cat([value, value]) for value in inputs]


def larger_batch(inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """Zeros as inputs for three batches and a sample, to tell sizes that vary with the batch.

    None where the inputs do not share a batch dimension.
    """
    if not _share_batch(inputs):
        return None
    return [value.new_zeros((3 * len(value) + 1, *value.shape[1:])) for value in inputs]


def _share_batch(inputs: Sequence[Tensor]) -> bool:
    sizes = {value.shape[0] if value.dim() else 0 for value in inputs}
    return len(sizes) == 1 and 0 not in sizes


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if "DataDependent" in kind or "DynamicOutputShape" in kind:
        return "depends on the values of a tensor"
    return f"is not decided by shapes ({kind}: {first_line(error)[:160]})"
