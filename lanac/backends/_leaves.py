"""Leaf modules as constructor calls: `nn.Conv2d(3, 8, 3, bias=False)` from a module that exists."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lanac.errors import BackendError

REQUIRED = inspect.Parameter.empty
"""Stands for "no default" in an `Argument`."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor; written only where it differs from its default."""

    name: str
    value: object
    default: object = REQUIRED

    @property
    def needed(self) -> bool:
        return self.default is REQUIRED or self.value != self.default


@dataclass(frozen=True)
class Leaf:
    """An attribute that one constructor call makes.

    Attributes:
        callee: `nn.Conv2d`, the name of a helper class, `nn.Parameter` or `register_buffer`.
        arguments: in the order of the signature, also those at their defaults.
        state: its parameters and buffers by name; a tensor of its own has the name ''.
    """

    callee: str
    arguments: tuple[Argument, ...]
    state: Mapping[str, Tensor] = field(default_factory=dict)


# Plain Python that would be lost in torch.nn: written into the file where a leaf needs it.
HELPERS: Mapping[str, str] = {
    "DropPath": '''class DropPath(nn.Module):
    """Drops a residual branch for whole samples, in training only."""

    def __init__(self, drop_prob=0.0, scale_by_keep=True):
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        if keep > 0.0 and self.scale_by_keep:
            mask.div_(keep)
        return x * mask
''',
    "Conv2dSame": '''class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, for any input size."""

    def forward(self, x):
        padding = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            padding += [total // 2, total - total // 2]
        x = F.pad(x, padding)
        return F.conv2d(
            x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups
        )
''',
}

# Containers are traced: what they hold shows in the forward code.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_HARMLESS = {
    "__init__",
    "__module__",
    "__doc__",
    "__annotations__",
    "__constants__",
    "__qualname__",
}
_HARMLESS |= {"extra_repr", "reset_parameters", "__static_attributes__", "__firstlineno__"}
_RNN_ARGUMENTS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
_PLAIN = (bool, int, float, str, tuple, type(None))


def torch_base(module: nn.Module) -> type[nn.Module] | None:
    """The torch.nn class that a module behaves as, or None where it has code of its own."""
    for cls in type(module).__mro__:
        if cls is nn.Module or not issubclass(cls, nn.Module) or issubclass(cls, _CONTAINERS):
            return None
        if cls.__module__.startswith("torch.nn.modules."):
            return cls
        if set(vars(cls)) - _HARMLESS:
            return None
    return None


def is_timm(module: nn.Module, *names: str) -> bool:
    """Whether a module is one of timm's or torchvision's classes, without importing them."""
    cls = type(module)
    return cls.__name__ in names and cls.__module__.startswith(("timm.", "torchvision."))


def is_special(module: nn.Module) -> bool:
    """Whether `special_leaves` knows the module."""
    names = ("BatchNormAct2d", "DropPath", "StochasticDepth", "Conv2dSame")
    return is_timm(module, *names) or _is_plain_layer_norm(module)


def _is_plain_layer_norm(module: nn.Module) -> bool:
    """Whether a module is timm's LayerNorm with its optional fast kernel off."""
    is_norm = is_timm(module, "LayerNorm") and isinstance(module, nn.LayerNorm)
    return is_norm and getattr(module, "_fast_norm", None) is False


def special_leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module | Leaf]]:
    """What a module of timm or torchvision becomes: suffixes of attributes and their values.

    fx would bake the training flag of these modules, or cannot trace them at all.
    """
    if is_timm(module, "BatchNormAct2d"):
        yield "", torch_leaf(module, nn.BatchNorm2d, path)
        for suffix, part in (("_drop", module.drop), ("_act", module.act)):
            if isinstance(part, nn.Module) and not isinstance(part, nn.Identity):
                yield suffix, part
    elif is_timm(module, "LayerNorm"):
        yield "", torch_leaf(module, nn.LayerNorm, path)
    elif is_timm(module, "Conv2dSame"):
        leaf = torch_leaf(module, nn.Conv2d, path)
        # Its own padding is computed from the input size; the attribute is never read.
        arguments = tuple(a for a in leaf.arguments if a.name != "padding")
        yield "", Leaf("Conv2dSame", arguments, leaf.state)
    elif is_timm(module, "DropPath"):
        scale = Argument("scale_by_keep", getattr(module, "scale_by_keep", True), True)
        yield "", Leaf("DropPath", (Argument("drop_prob", module.drop_prob or 0.0), scale))
    elif module.mode == "row":
        yield "", Leaf("DropPath", (Argument("drop_prob", module.p),))
    else:
        raise inexpressible(module, path, f"its mode is {module.mode!r}, only 'row' can be written")


def torch_leaf(module: nn.Module, base: type[nn.Module], path: str) -> Leaf:
    """The constructor call that makes a module of class `base` like `module`.

    Raises:
        BackendError: no such call can be found from the module's attributes.
    """
    name = f"nn.{base.__name__}"
    if getattr(nn, base.__name__, None) is not base:
        raise inexpressible(module, path, f"{base.__qualname__} is not a class of torch.nn")
    trouble = ""
    # (3, 3) reads better as 3, but a few classes tell the two apart.
    for short in (True, False):
        arguments = _arguments(module, base, path, short)
        given = {argument.name: argument.value for argument in arguments if argument.needed}
        try:
            with torch.device("meta"):
                rebuilt = base(**given)
        except (TypeError, ValueError, RuntimeError) as error:
            trouble = f"{base.__name__}(**{given}) fails: {error}"
            continue
        state = module.state_dict()
        if base is not type(module):  # what a subclass adds is written by whoever knows it
            state = {key: state[key] for key in rebuilt.state_dict() if key in state}
        difference = _difference(module, rebuilt, state)
        if not difference:
            return Leaf(name, arguments, state)
        trouble = f"a module rebuilt from its attributes differs in {difference}"
    raise inexpressible(module, path, trouble)


def tensor_leaf(tensor: Tensor) -> Leaf:
    """A parameter or buffer that stands in a graph by itself."""
    callee = "nn.Parameter" if isinstance(tensor, nn.Parameter) else "register_buffer"
    shape = Argument("shape", tensor.shape[0] if tensor.ndim == 1 else tuple(tensor.shape))
    dtype = Argument("dtype", tensor.dtype, torch.float32)
    return Leaf(callee, (shape, dtype), {"": tensor})


def inexpressible(module: nn.Module, path: str, why: str) -> BackendError:
    """The error for a module that cannot be written down."""
    cls = type(module)
    return BackendError(
        f"cannot write module {path!r} ({cls.__module__}.{cls.__qualname__}) as PyTorch source: "
        f"{why}. Replace it by modules of torch.nn, or emit ONNX only (--emit onnx)."
    )


def source(value: object) -> str:
    """A constant as source code; raises ValueError where there is no such text."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.Size | tuple):
        items = [source(item) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, list):
        return f"[{', '.join(source(item) for item in value)}]"
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if value is Ellipsis:
        return "..."
    if isinstance(value, str):
        return '"' + value + '"' if value.isidentifier() else repr(value)
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    raise ValueError(f"a value of type {type(value).__name__} has no source text")


def _arguments(
    module: nn.Module, base: type[nn.Module], path: str, short: bool
) -> tuple[Argument, ...]:
    if issubclass(base, nn.RNNBase):
        more = {nn.RNN: ("nonlinearity",), nn.LSTM: ("proj_size",)}.get(base, ())
        defaults: dict[str, object] = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
        }
        defaults |= {"nonlinearity": "tanh", "proj_size": 0, "bidirectional": False}
        names = (*_RNN_ARGUMENTS, "bidirectional", *more)
        return tuple(Argument(n, getattr(module, n), defaults.get(n, REQUIRED)) for n in names)
    parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
    arguments = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is REQUIRED and not hasattr(module, parameter.name):
            why = f"it does not keep the constructor argument {parameter.name!r}"
            raise inexpressible(module, path, why)
        value = _value(module, parameter)
        value = _shorten(value) if short else value
        arguments.append(Argument(parameter.name, value, parameter.default))
    return tuple(arguments)


def _value(module: nn.Module, parameter: inspect.Parameter) -> object:
    """The constructor argument that a module was made with, as its attributes tell."""
    name, default = parameter.name, parameter.default
    if name == "device":
        return default
    if name == "dtype":
        dtype = next((t.dtype for t in module.parameters() if t.is_floating_point()), None)
        return default if dtype in (None, torch.float32) else dtype
    if isinstance(module, nn.MultiheadAttention):
        if name == "bias":
            return module.in_proj_bias is not None
        if name == "add_bias_kv":
            return module.bias_k is not None
        if name in ("kdim", "vdim") and getattr(module, name) == module.embed_dim:
            return None
    value = getattr(module, name, default)
    if isinstance(default, bool) and (value is None or isinstance(value, Tensor)):
        return value is not None
    if name == "stride" and default is None and value == getattr(module, "kernel_size", None):
        return None
    return default if isinstance(value, Tensor | nn.Module) else value


def _shorten(value: object) -> object:
    is_row = isinstance(value, tuple) and len(set(value)) == 1 and isinstance(value[0], int)
    return value[0] if is_row and isinstance(value, tuple) else value


def _difference(module: nn.Module, rebuilt: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What tells a rebuilt module from the original, '' where nothing does."""
    want = {key: (tuple(t.shape), t.dtype) for key, t in state.items()}
    got = {key: (tuple(t.shape), t.dtype) for key, t in rebuilt.state_dict().items()}
    if want != got:
        return f"its weights ({got} instead of {want})"
    if type(module) is type(rebuilt) and module.extra_repr() != rebuilt.extra_repr():
        return f"its description ({rebuilt.extra_repr()!r} instead of {module.extra_repr()!r})"
    for name, value in vars(rebuilt).items():
        public = not name.startswith("_") and name != "training" and isinstance(value, _PLAIN)
        if public and getattr(module, name) != value:
            return f"attribute {name!r} ({value!r} instead of {getattr(module, name)!r})"
    return ""
