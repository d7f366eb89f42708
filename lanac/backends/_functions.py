"""Python functions that are not torch's, copied into the emitted source.

Some functions cannot be traced through: their author has told torch.fx so, or they decide by shapes.
Their source says what they do for any shape, so it is written out, with what it uses in turn.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import itertools
import math
import operator
import textwrap
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from lanac.backends._leaves import source

MODULES: Mapping[str, ModuleType] = {
    "functools": functools,
    "itertools": itertools,
    "math": math,
    "operator": operator,
    "torch": torch,
    "nn": nn,
    "F": F,
}
"""What emitted source may import, by the name it has there."""

_SPACES: tuple[tuple[ModuleType | type, str], ...] = (
    (F, "F"),
    (torch, "torch"),
    (torch.linalg, "torch.linalg"),
    (torch.fft, "torch.fft"),
    (torch.special, "torch.special"),
    (torch.Tensor, "torch.Tensor"),
    (math, "math"),
    (operator, "operator"),
)


def torch_name(function: Callable[..., object]) -> str | None:
    """How source calls a function of torch or Python; None for one that is not theirs."""
    if isinstance(function, torch._ops.OpOverload) and function.namespace in ("aten", "prims"):
        return f"torch.ops.{function}"
    name = getattr(function, "__name__", "")
    if getattr(builtins, name, None) is function:
        return name
    return next(
        (f"{prefix}.{name}" for space, prefix in _SPACES if getattr(space, name, None) is function),
        None,
    )


def copied_functions(function: Callable[..., object]) -> dict[str, str]:
    """The source of a function and of the functions it calls, by name; the function comes last.

    Raises:
        ValueError: it is not written in Python, or uses what cannot be copied; says what.
    """
    found: dict[str, str] = {}
    _copy(function, found, {})
    return found


def _copy(function: Callable[..., object], found: dict[str, str], names: dict[object, str]) -> str:
    """Adds a function to `found`, after those it calls; returns its name there."""
    function = inspect.unwrap(function)
    if function in names:
        return names[function]
    where = f"{getattr(function, '__module__', None) or type(function).__module__}."
    where += getattr(function, "__qualname__", type(function).__name__)
    if not isinstance(function, FunctionType):
        raise ValueError(f"{where} is not a function of torch, and not written in Python")
    if function.__closure__ or function.__name__ == "<lambda>":
        raise ValueError(f"{where} is not a function of torch, and not a function of a module")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where} is not a function of torch, and has no source") from error
    assert isinstance(tree, ast.FunctionDef)  # lambdas and coroutines have gone
    names[function] = function.__name__
    tree = _Plain().visit(tree)
    local = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_stored(node)}
    local |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    texts: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in local and node.id not in texts:
            texts[node.id] = _global(function, node.id, where, found, names)
    tree = ast.fix_missing_locations(_Rename(texts, local).visit(tree))
    text = f"# From {where}\n{ast.unparse(tree)}\n"
    if found.setdefault(function.__name__, text) != text:
        raise ValueError(f"two functions are called {function.__name__}; one of them is {where}")
    return function.__name__


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _global(
    function: FunctionType, name: str, where: str, found: dict[str, str], names: dict[object, str]
) -> str:
    """The text that stands for a global name of a function."""
    if name not in function.__globals__:
        if hasattr(builtins, name):
            return name
        raise ValueError(f"{where} uses {name}, which is not defined")
    value = function.__globals__[name]
    for known, module in MODULES.items():
        if value is module:
            return known
    if inspect.isclass(value) and value.__module__.startswith("torch."):
        public = getattr(torch, value.__name__, None) is value
        return f"torch.{value.__name__}" if public else f"nn.{value.__name__}"
    if callable(value) and not inspect.isclass(value):
        known_name = torch_name(value)
        return known_name or _copy(value, found, names)
    try:
        return source(value)
    except ValueError as error:
        raise ValueError(f"{where} uses {name}: {error}") from error


class _Plain(ast.NodeTransformer):
    """Takes off what only means something where the function was written."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list, node.returns = [], None
        documented = ast.get_docstring(node)
        if documented is not None:
            node.body = node.body[1:] or [ast.Pass()]
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)


class _Rename(ast.NodeTransformer):
    """Puts the texts of global names in."""

    def __init__(self, texts: Mapping[str, str], local: set[str]) -> None:
        self._texts, self._local = texts, local

    def visit_Name(self, node: ast.Name) -> ast.expr:
        text = self._texts.get(node.id, node.id)
        if node.id in self._local or text == node.id:
            return node
        return ast.copy_location(ast.parse(text, mode="eval").body, node)
