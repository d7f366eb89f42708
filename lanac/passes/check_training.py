"""Checks that gradients flow through the network, before anything is measured or trained."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import fx

from lanac.compilation import Compilation
from lanac.errors import TrainingError, first_line
from lanac.ir import function_name, is_in_place
from lanac.training.finetune import FinetuneOptions, Finetuner
from lanac.workspace import Result, key_of

_SAMPLES = 2


@dataclass(frozen=True)
class CheckTraining:
    """Raises where the teacher, as it was traced, cannot take one step of finetuning.

    What a network does in evaluation alone, such as decoding boxes in place, was never trained:
    it may stop gradients, and finetuning comes hours later.
    """

    name = "check_training"
    needs = ("program",)
    provides = ()

    def run(self, compilation: Compilation) -> Compilation:
        key = key_of("trains", dict(compilation.fingerprints))
        if compilation.workspace.get("trains", key) is not None:
            return compilation
        teacher = compilation.need("program").teacher
        if not any(value.requires_grad for value in teacher.parameters()):
            raise TrainingError(
                "all weights of the network are frozen (requires_grad is False), so that no student "
                "could be finetuned. Call model.requires_grad_(True) in model() before you return it"
            )
        student = copy.deepcopy(teacher).train()
        device, task = compilation.device, compilation.task
        finetuner = Finetuner(student, teacher, task, FinetuneOptions(), compilation.seed, device)
        batch = task.train.batch(range(_SAMPLES)).to(device)
        try:
            torch.autograd.backward(finetuner.loss(batch))
        except RuntimeError as error:
            reason = first_line(error).split(" Hint:")[0].rstrip(".")
            raise TrainingError(
                f"the network cannot be finetuned as it is in evaluation: {reason}. "
                f"{_writers(student)}Write into new tensors in forward(), or return the network "
                "without that part from model()."
            ) from error
        compilation.workspace.put("trains", key, Result(True))
        return compilation


def _writers(module: fx.GraphModule) -> str:
    """A sentence on who writes into tensors; layers that work in place are made for training."""
    found: dict[str, None] = {}
    for node in module.graph.nodes:
        if node.op != "call_module" and is_in_place(module, node):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            path = stack[-1][0] if stack else ""
            found[f"{function_name(node)} in {path or 'forward()'}"] = None
    return f"Written in place: {', '.join(list(found)[:4])}. " if found else ""
