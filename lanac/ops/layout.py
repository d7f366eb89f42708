"""Which dimension of a slot's tensors holds the features, as the layers that read them tell."""

from __future__ import annotations

from torch import fx, nn

_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_FIRST_NAMES = {"conv1d", "conv2d", "conv3d", "convolution", "batch_norm", "group_norm"}
_LAST_NAMES = {"linear", "layer_norm", "native_layer_norm", "rms_norm"}
_MOVING = {
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "mT", "T"),
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unfold", "einsum"),
}
"""Names of functions, methods and modules behind which dimensions stand elsewhere."""


def features_last(teacher: fx.GraphModule) -> bool | None:
    """Whether a slot's input holds its features in the last dimension, (B, ..., C).

    The first layer in the graph's order that mixes or scales features says so: a convolution or
    batch norm reads (B, C, ...), a linear layer or layer norm (B, ..., C). Looked at are only
    layers that get the input with its dimensions where they were.

    Returns:
        None where no layer tells.
    """
    nodes = iter(teacher.graph.nodes)
    carrying = {next(nodes)}
    for node in nodes:
        if carrying.isdisjoint(node.all_input_nodes):
            continue
        module = teacher.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = _name(node, module)
        if name in _FIRST_NAMES or isinstance(module, _FIRST):
            return False
        # By exact name: there are channels-first layer norms among the subclasses.
        if name in _LAST_NAMES or isinstance(module, nn.Linear | nn.MultiheadAttention):
            return True
        if name not in _MOVING:
            carrying.add(node)
    return None


def _name(node: fx.Node, module: nn.Module | None) -> str:
    """`layer_norm` for nn.LayerNorm, F.layer_norm and aten.layer_norm.default."""
    if module is not None:
        name = type(module).__name__
        return {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm"}.get(name, name.lower())
    if node.target is getattr:
        return str(node.args[1])
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]
