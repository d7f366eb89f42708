"""A student as nested blocks: what each class of the emitted source makes and calls."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from lanac.backends._forward import write_forward
from lanac.backends._frozen import Calls, freeze
from lanac.backends._leaves import (
    Leaf,
    inexpressible,
    is_special,
    special_leaves,
    tensor_leaf,
    torch_base,
    torch_leaf,
)
from lanac.backends._structures import structures_of
from lanac.backends._switches import inline_switch
from lanac.errors import BackendError, first_line
from lanac.ir import read_attribute


@dataclass(frozen=True, eq=False)
class Block:
    """A module with a forward of its own.

    Attributes:
        title: the class name it would like to have.
        parts: its attributes in order.
        forward: lines of its forward method.
        functions: source of the functions that it calls and that are not torch's, by name.
        structures: NamedTuples and dataclasses that the forward method makes.
    """

    title: str
    parts: Mapping[str, Leaf | Block]
    forward: tuple[str, ...]
    functions: Mapping[str, str] = field(default_factory=dict)
    structures: tuple[type, ...] = ()

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by the name they have in the emitted module."""
        tensors: dict[str, Tensor] = {}
        for attribute, part in self.parts.items():
            path = f"{prefix}{attribute}"
            if isinstance(part, Block):
                tensors |= part.state(f"{path}.")
            else:
                tensors |= {f"{path}.{key}" if key else path: t for key, t in part.state.items()}
        return tensors


Part = Leaf | Block


def describe_student(student: fx.GraphModule, inputs: tuple[Tensor, ...] = ()) -> Block:
    """The student as a block called `Student`.

    Args:
        student: in eval mode.
        inputs: example inputs, for modules that torch.fx cannot trace.

    Raises:
        BackendError: a module or a function in it cannot be written as source; names it.
    """
    calls = Calls(student, inputs)
    return _describe_graph(student, student.graph, "Student", "", calls, is_root=True)


def _describe_graph(
    root: nn.Module,
    graph: fx.Graph,
    title: str,
    path: str,
    calls: Calls,
    is_root: bool = False,
    in_training: fx.Graph | None = None,
) -> Block:
    graph = _inlined(root, graph, keep_slots=is_root)
    graphs = [graph] if in_training is None else [in_training, graph]
    nodes = [n for g in graphs for n in g.nodes if n.op in ("call_module", "get_attr")]
    targets = list(dict.fromkeys(str(node.target) for node in nodes))
    prefix = "" if is_root else _common_prefix(targets)
    parts: dict[str, Part] = {}
    attributes: dict[str, tuple[str, ...]] = {}
    for target in targets:
        stem = _attribute_name(target[len(prefix) :])
        found = _describe(root, target, f"{path}.{target}" if path else target, calls)
        names = []
        for suffix, part in found:
            name = _free_name(f"{stem}{suffix}", parts)
            parts[name] = part
            names.append(name)
        attributes[target] = tuple(names)
    where = f"module {path!r}" if path else "the student"
    functions: dict[str, str] = {}
    forward = write_forward(graph, attributes, where, functions)
    if in_training is not None:
        head, *body = write_forward(in_training, attributes, where, functions)
        indented = (f"    {line}" for line in body)
        forward = (head, "    if self.training:", *indented, *forward[1:])
    structures = dict.fromkeys(cls for g in graphs for cls in structures_of(g).values())
    return Block(title, parts, forward, functions, tuple(structures))


def _describe(root: nn.Module, target: str, path: str, calls: Calls) -> list[tuple[str, Part]]:
    """What a target of the graph becomes: attributes (suffix and value) called one by one."""
    value = read_attribute(root, target)
    if isinstance(value, nn.Module):
        return _describe_module(value, path, calls)
    if isinstance(value, Tensor):
        return [("", tensor_leaf(value))]
    raise BackendError(
        f"cannot write attribute {path!r} as PyTorch source: expected a tensor or a module, got "
        f"{type(value).__name__}. Register it as a buffer."
    )


def _describe_module(module: nn.Module, path: str, calls: Calls) -> list[tuple[str, Part]]:
    if module._forward_hooks or module._forward_pre_hooks:
        raise inexpressible(module, path, "it has forward hooks, which would be lost")
    if isinstance(module, fx.GraphModule):
        title = _graph_title(module, path)
        return _describe_traced(module, module.graph, title, path, calls)
    if is_special(module):
        found: list[tuple[str, Part]] = []
        for suffix, part in special_leaves(module, path):
            inner = [("", part)] if isinstance(part, Leaf) else _describe_module(part, path, calls)
            found += [(suffix + more, deep) for more, deep in inner]
        return found
    base = torch_base(module)
    if base is not None:
        return [("", torch_leaf(module, base, path))]
    title = type(module).__name__
    try:
        graph = _trace(module, path)
    except BackendError:
        if calls.of(module) is None:
            raise
        return [("", _describe_frozen(module, title, path, calls))]
    # The other mode is traced on a copy: code that runs in training may change buffers.
    in_training = _trace(copy.deepcopy(module).train(), path)
    if str(graph) == str(in_training):
        return _describe_traced(module, graph, title, path, calls)
    return [("", _describe_graph(module, graph, title, path, calls, in_training=in_training))]


def _describe_frozen(module: nn.Module, title: str, path: str, calls: Calls) -> Block:
    """A module that torch.fx cannot trace, as the operators that torch.export records of it."""
    call = calls.of(module)
    assert call is not None  # the caller has looked
    try:
        frozen = freeze(module, call)
    # Export runs the module's own code, which may raise anything.
    except Exception as error:
        why = f"torch.fx cannot trace it, and torch.export cannot either: {first_line(error)}"
        raise inexpressible(module, path, why) from error
    return _describe_graph(frozen.root, frozen.graph, title, path, calls)


def _describe_traced(
    root: nn.Module, graph: fx.Graph, title: str, path: str, calls: Calls
) -> list[tuple[str, Part]]:
    """A block, or the module that is all there is in the graph."""
    graph = _inlined(root, graph)
    nodes = list(graph.nodes)
    if [n.op for n in nodes] == ["placeholder", "output"] and nodes[1].args == (nodes[0],):
        return [("", Leaf("nn.Identity", ()))]
    if [n.op for n in nodes] == ["placeholder", "call_module", "output"]:
        entry, call, exit_ = nodes
        if call.args == (entry,) and not call.kwargs and exit_.args == (call,):
            return _describe(root, str(call.target), f"{path}.{call.target}", calls)
    return [("", _describe_graph(root, graph, title, path, calls))]


def _inlined(root: nn.Module, graph: fx.Graph, keep_slots: bool = False) -> fx.Graph:
    """The graph without modules that are nothing or one call.

    These are the `nn.Identity` that stand for what an option of the teacher left out, and calls
    whose constants differ in training. A slot filled with identity says that something was here;
    its name has no dot.
    """
    clean = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        part = root.get_submodule(node.target) if node.op == "call_module" else None
        is_kept = part is None or (keep_slots and "." not in node.target)
        if not is_kept and type(part) is nn.Identity:
            copied[node] = copied[node.all_input_nodes[0]]
            continue
        call = None
        if part is not None and not node.kwargs:
            call = inline_switch(clean, part, [copied[source] for source in node.all_input_nodes])
        copied[node] = call or clean.node_copy(node, copied.__getitem__)
    return clean


class _Tracer(fx.Tracer):
    """Stops at whatever can be written as one constructor call."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        hooked = bool(m._forward_hooks or m._forward_pre_hooks)
        return hooked or is_special(m) or torch_base(m) is not None


def _trace(module: nn.Module, path: str) -> fx.Graph:
    try:
        return _Tracer().trace(module)
    # Tracing runs the module's own code, which may raise anything.
    except Exception as error:
        mode = "training" if module.training else "evaluation"
        why = f"torch.fx cannot trace it in {mode} mode: {error}"
        raise inexpressible(module, path, why) from error


def _graph_title(module: fx.GraphModule, path: str) -> str:
    """A class name for the teacher's own op: its class where the slot is one module."""
    stacks = [
        list(node.meta.get("nn_module_stack", {}).values())
        for node in module.graph.nodes
        if node.op not in ("placeholder", "output", "get_attr")
    ]
    shared = [entry for entry in (stacks[0] if stacks else []) if all(entry in s for s in stacks)]
    for _, cls in reversed(shared):
        if isinstance(cls, type) and issubclass(cls, nn.Sequential | nn.ModuleList):
            continue
        if isinstance(cls, type) and not cls.__module__.startswith("torch."):
            return cls.__name__.lstrip("_")
    # `Layer10` is layer1.0; as the name of a class that many slots share, `Layer` says more.
    name = type(module).__name__.removesuffix("Impl")
    if name == "GraphModule":  # a copy has forgotten its name; the path of its slot has not
        name = "".join(part.capitalize() for part in re.split(r"\W|_", path))
    return re.sub(r"\d+$", "", name) or "Block"


def _common_prefix(targets: list[str]) -> str:
    """`layer1.0.` for `layer1.0.conv1` and `layer1.0.bn1`."""
    split = [target.split(".")[:-1] for target in targets]
    shared = 0
    for names in zip(*split, strict=False):
        if len(set(names)) > 1:
            break
        shared += 1
    return "".join(f"{name}." for name in split[0][:shared]) if split else ""


def _attribute_name(target: str) -> str:
    name = re.sub(r"\W", "_", target)
    return f"layer_{name}" if name[0].isdigit() else name


def _free_name(wish: str, taken: Mapping[str, Part]) -> str:
    # `type` or `half` as an attribute would hide a method of nn.Module.
    stem = f"{wish}_" if hasattr(nn.Module, wish) or wish == "training" else wish
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name


def tied(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs (again, first) of names of one and the same parameter."""
    first: dict[int, str] = {}
    pairs = []
    for name, tensor in state.items():
        owner = first.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), name)
        is_same = owner != name and tensor.shape == state[owner].shape
        if is_same and tensor.stride() == state[owner].stride() and tensor.dtype.is_floating_point:
            pairs.append((name, owner))
    return pairs


def save_ready(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
