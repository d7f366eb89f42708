"""Admission: wrappers around a teacher are removed, what cannot work is refused at once."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lanac.errors import TraceError

_WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel")
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")
_OLD_NORMS = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm",
}


def admit(model: nn.Module) -> nn.Module:
    """The network inside its wrappers (torch.compile, DataParallel, DistributedDataParallel).

    Raises:
        TraceError: a module that lanac cannot take; names it, and says what to do.
    """
    while (inner := _wrapped(model)) is not None:
        model = inner
    for path, module in model.named_modules():
        problem = _problem(module)
        if problem is not None:
            where = f"module {path!r}" if path else "the model"
            raise TraceError(f"{where} ({type(module).__name__}) {problem}")
    return model


def _wrapped(module: nn.Module) -> nn.Module | None:
    """The module inside a wrapper; None where it is none."""
    if type(module).__name__ not in _WRAPPERS:
        return None
    inner = getattr(module, "_orig_mod", None) or module.module
    assert isinstance(inner, nn.Module)
    return inner


def _problem(module: nn.Module) -> str | None:
    """What is wrong with one module and what to do about it; None where nothing is."""
    kinds = {cls.__name__ for cls in type(module).__mro__}
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is scripted: TorchScript has no Python code that could be traced. "
            "Return the original module from model(), without torch.jit"
        )
    if kinds & set(_SHARDED):
        return (
            "is sharded (FSDP): its weights are spread over processes. Load a full state dict into "
            "the plain module and return that from model()"
        )
    if _wrapped(module) is not None:
        return (
            "is a wrapper inside the network. Put the module that it wraps in its place in model() "
            "(torch.compile keeps it as ._orig_mod, the others as .module)"
        )
    if "quantized" in type(module).__module__.split("."):
        return "is quantised; lanac replaces layers in floating point. Return the float model"
    for hook in module._forward_pre_hooks.values():
        remedy = _OLD_NORMS.get(type(hook).__name__)
        if remedy is not None:
            return (
                f"has its weight recomputed by a hook ({type(hook).__name__}). "
                f"Call {remedy}(module) in model() before you return the network"
            )
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    for name, value in own:
        problem = _tensor_problem(name, value)
        if problem is not None:
            return problem
    return None


def _tensor_problem(name: str, value: torch.Tensor) -> str | None:
    if is_lazy(value):
        return (
            f"is lazy: {name!r} has no shape yet. Run the network once, or load its weights, "
            "before you return it from model()"
        )
    if value.is_meta:
        return (
            f"is on the meta device: {name!r} has a shape and no values. Load the weights "
            "(model.to_empty(device='cpu') and load_state_dict) before you return it from model()"
        )
    if value.is_quantized or type(value) not in (torch.Tensor, nn.Parameter, nn.Buffer):
        return (
            f"holds {name!r} as a {type(value).__name__}, not as a plain tensor (quantised or "
            "distributed weights are). Return the model with plain floating point weights"
        )
    return None
