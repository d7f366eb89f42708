from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lanac.errors import TraceError
from lanac.frontend.admission import admit
from lanac.frontend.build import build_program


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))


def test_wrappers_are_taken_off() -> None:
    model = chain()
    assert admit(model) is model
    assert admit(torch.compile(model)) is model  # type: ignore[arg-type]
    assert admit(nn.DataParallel(model)) is model
    assert admit(torch.compile(nn.DataParallel(model))) is model  # type: ignore[arg-type]


def refused(model: nn.Module) -> str:
    with pytest.raises(TraceError) as caught:
        admit(model)
    return str(caught.value)


def with_part(part: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), part)


class FullyShardedDataParallel(nn.Module):
    pass


def on_meta() -> nn.Module:
    part = nn.Conv2d(3, 3, 1)
    part.bias = nn.Parameter(torch.empty(3, device="meta"))
    return part


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (
        lambda: torch.jit.script(nn.Conv2d(3, 3, 1)),
        "module '1' (RecursiveScriptModule) is scripted: TorchScript has no Python code that could "
        "be traced. Return the original module from model(), without torch.jit",
    ),
    "sharded": (
        FullyShardedDataParallel,
        "module '1' (FullyShardedDataParallel) is sharded (FSDP): its weights are spread over "
        "processes. Load a full state dict into the plain module and return that from model()",
    ),
    "wrapped inside": (
        lambda: nn.DataParallel(nn.Conv2d(3, 3, 1)),
        "module '1' (DataParallel) is a wrapper inside the network. Put the module that it wraps "
        "in its place in model() (torch.compile keeps it as ._orig_mod, the others as .module)",
    ),
    "weight norm by hook": (
        lambda: torch.nn.utils.weight_norm(nn.Conv2d(3, 3, 1)),
        "module '1' (Conv2d) has its weight recomputed by a hook (WeightNorm). Call "
        "torch.nn.utils.remove_weight_norm(module) in model() before you return the network",
    ),
    "spectral norm by hook": (
        lambda: torch.nn.utils.spectral_norm(nn.Conv2d(3, 3, 1)),
        "module '1' (Conv2d) has its weight recomputed by a hook (SpectralNorm). Call "
        "torch.nn.utils.remove_spectral_norm(module) in model() before you return the network",
    ),
    "lazy": (
        lambda: nn.LazyConv2d(3, 1),
        "module '1' (LazyConv2d) is lazy: 'weight' has no shape yet. Run the network once, or load "
        "its weights, before you return it from model()",
    ),
    "meta": (
        on_meta,
        "module '1' (Conv2d) is on the meta device: 'bias' has a shape and no values. Load the "
        "weights (model.to_empty(device='cpu') and load_state_dict) before you return it from "
        "model()",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CASES)
def test_what_cannot_work_is_refused(kind: str) -> None:
    make, message = CASES[kind]
    assert refused(with_part(make())) == message


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_layer_is_refused() -> None:
    try:
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 2)), {nn.Linear})
    except (AttributeError, RuntimeError, NotImplementedError):
        pytest.skip("this torch cannot quantise")
    assert refused(model) == (
        "module '0' (Linear) is quantised; lanac replaces layers in floating point. Return the "
        "float model"
    )


@pytest.mark.filterwarnings("ignore")
def test_the_model_itself_is_named_so() -> None:
    scripted = torch.jit.script(chain())
    assert refused(scripted).startswith("the model (RecursiveScriptModule) is")


@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.orthogonal,
    ],
)
def test_parametrised_weights_work(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 2, 3)).eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    program = build_program(model, (x,))
    assert [slot.name for slot in program.slots] == ["0", "1", "2"]
    assert torch.equal(program.split()(x), model(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
