"""Loads emitted source where there is no lanac, and says in JSON what it does.

Runs as a process of its own (`python -I fresh.py FOLDER`), which imports torch and safetensors alone.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.utils import _pytree

FOREIGN = {"lanac", "timm", "torchvision"}


def tensors(outputs):
    """The tensors of a nested output, in a fixed order."""
    return [leaf for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def difference(outputs, expected):
    """The largest difference; infinite where shapes differ."""
    found = tensors(outputs)
    if [tuple(a.shape) for a in found] != [tuple(b.shape) for b in expected]:
        return float("inf")
    if all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
        return 0.0
    differences = (a.double() - b.double() for a, b in zip(found, expected, strict=True))
    return max(d.abs().nan_to_num(float("inf")).max().item() for d in differences)


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    data = load_file(folder / "data.safetensors")

    def expected(prefix):
        count = sum(name.startswith(f"{prefix}.") for name in data)
        return [data[f"{prefix}.{place}"] for place in range(count)]

    start = time.perf_counter()
    spec = importlib.util.spec_from_file_location("student", folder / "student.py")
    student = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(student)
    model = student.load()
    found = {"load_seconds": time.perf_counter() - start}
    with torch.no_grad():
        found["difference"] = difference(model(data["x"].clone()), expected("eval"))
        found["difference_other_batch"] = difference(model(data["more"].clone()), expected("more"))
    if "train" in sys.argv[2:]:
        before = {name: value.clone() for name, value in model.named_buffers()}
        model.train()
        torch.manual_seed(0)
        outputs = model(data["trained"].clone())
        found["difference_train"] = difference(outputs, expected("train"))
        sum(value.float().square().mean() for value in tensors(outputs)).backward()
        reached = [value for value in model.parameters() if value.grad is not None]
        found["gradients"] = sorted(str(tuple(value.shape)) for value in reached)
        found["gradient_norm"] = sum(v.grad.double().square().sum().item() for v in reached) ** 0.5
        changed = [n for n, v in model.named_buffers() if not torch.equal(v, before[n])]
        found["moved"] = len([name for name in changed if name.endswith("running_mean")])
    found["foreign"] = sorted(FOREIGN & set(sys.modules))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
