"""Which kernels a runtime joins: pure functions from kernel lists to kernel lists.

What is joined is one kernel that reads what comes from outside and writes what is read outside. The
rules are those that matter for the bytes that move; each runtime has more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lanac.targets.predicted.kernels import Kernel, KernelList, Operand
from lanac.targets.predicted.work import CONVOLUTIONS, MULTIPLYING, Work

_RECTIFIERS = {"relu", "hardtanh", "clamp", "leaky_relu", "clamp_min", "threshold", "prelu"}
_GATES = {"silu", "gelu", "hardswish", "mish", "sigmoid", "hardsigmoid", "tanh", "elu"}
_SUMS = {"add", "sub"}
_PADDING = "constant_pad_nd"
_GENERATED = ("pointwise", "batch_norm", "norm", "softmax", "reduce", "copy", "cat", "cast", "fill")
"""What inductor writes kernels for itself."""

_ELEMENTWISE = ("pointwise", "batch_norm", "cast", "fill")


@dataclass
class _Group:
    """Kernels that become one."""

    places: list[int]
    ancestors: set[int] = field(default_factory=set)  # groups that it depends on


Joins = Callable[["_Fuser", _Group, Kernel], bool]
"""Whether a group takes in a kernel that reads what it writes."""


def eager(listed: KernelList) -> KernelList:
    """PyTorch without compilation: every operator on its own.

    cuDNN's convolutions leave the bias to a kernel of its own; PyTorch's depthwise ones do not. Group
    norms read their input once for the moments and once more for the result.
    """
    kernels: list[Kernel] = []
    for kernel in listed.kernels:
        if kernel.name == "native_group_norm":
            kernels.append(Kernel("moments", "reduce", kernel.reads[:1], (), kernel.work))
        kernels.append(kernel)
        if kernel.kind in CONVOLUTIONS and kernel.kind != "depthwise" and kernel.work.bias:
            kernels.append(Kernel("add", "pointwise", kernel.writes, kernel.writes, Work()))
    return replace(listed, kernels=tuple(kernels))


def inductor(listed: KernelList) -> KernelList:
    """torch.compile: elementwise chains, norms and reductions joined; products stay outside."""

    def joins(fuser: _Fuser, group: _Group, kernel: Kernel) -> bool:
        if kernel.kind not in _GENERATED and kernel.kind != "pool":
            return False
        lead = fuser.kernels[group.places[-1]]
        if any(fuser.kernels[place].kind not in _GENERATED for place in group.places):
            return False
        reducing = any(
            fuser.kernels[place].kind in ("reduce", "norm", "softmax") for place in group.places
        )
        if kernel.kind == "pool" or (kernel.kind in ("reduce", "norm", "softmax") and reducing):
            return kernel.kind != "pool" and _size(kernel) == _size(lead)
        return _size(kernel) == _size(lead)

    return _Fuser(listed, joins).run()


def tensorrt(listed: KernelList, fuses_swish: bool = True) -> KernelList:
    """TensorRT: batch norm folded, activations and residual sums in the convolution before them.

    Args:
        listed: the kernels, without casts.
        fuses_swish: whether x * sigmoid(x) joins a convolution; on V100 it does not.
    """
    epilogue = _RECTIFIERS | _SUMS | (_GATES if fuses_swish else {"sigmoid"})
    return _Fuser(listed, _epilogues(epilogue, chains=True)).run()


def onnxruntime(listed: KernelList) -> KernelList:
    """ONNX Runtime on a CPU: batch norm folded, rectifiers and sums in the convolution."""
    epilogue = _RECTIFIERS | _SUMS | {"sigmoid", "tanh", "hardsigmoid"}
    return _Fuser(listed, _epilogues(epilogue, chains=False)).run()


def openvino(listed: KernelList) -> KernelList:
    """OpenVINO on a CPU: any elementwise chain behind a convolution joins it."""
    return _Fuser(listed, _epilogues(None, chains=True)).run()


RULES: dict[str, Callable[[KernelList], KernelList]] = {
    "eager": eager,
    "inductor": inductor,
    "tensorrt": tensorrt,
    "tensorrt_volta": lambda listed: tensorrt(listed, fuses_swish=False),
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
"""Rules by name."""


def _epilogues(names: set[str] | None, *, chains: bool) -> Joins:
    """Rules of engines: what joins a product, and whether elementwise chains join each other.

    Args:
        names: elementwise operators that join a product; None for all.
        chains: whether elementwise kernels join each other.
    """

    def joins(fuser: _Fuser, group: _Group, kernel: Kernel) -> bool:
        if not fuser.is_alone(group):
            return False
        kinds = [fuser.kernels[place].kind for place in group.places]
        product = any(kind in MULTIPLYING and kind not in ("bmm", "attention") for kind in kinds)
        if kernel.kind == "cast":
            return True
        if kernel.kind in CONVOLUTIONS:  # padding becomes the convolution's own
            return all(fuser.kernels[place].name == _PADDING for place in group.places)
        if product and kernel.kind == "batch_norm":
            return all(kind in MULTIPLYING or kind == "batch_norm" for kind in kinds)
        if kernel.kind not in _ELEMENTWISE or fuser.output_size(group) != _size(kernel):
            return False
        if product:
            return names is None or kernel.name in names
        if kinds[-1] in ("norm", "softmax") or not chains:
            return False
        return all(kind in _ELEMENTWISE for kind in kinds)

    return joins


class _Fuser:
    """Joins kernels with the groups that feed them, in order, and never around a cycle."""

    def __init__(self, listed: KernelList, joins: Joins) -> None:
        self.kernels = listed.kernels
        self._listed, self._joins = listed, joins
        self._readers = listed.readers()
        self._groups: list[_Group] = []
        self._owner: dict[int, int] = {}  # place -> group
        self._writer: dict[int, int] = {}  # value -> place

    def is_alone(self, group: _Group) -> bool:
        """Whether one kernel outside reads what the group writes, and nobody else."""
        inside = set(group.places)
        users: set[int] = set()
        for place in group.places:
            for operand in self.kernels[place].writes:
                if operand.value in self._listed.outputs:
                    return False
                users |= set(self._readers.get(operand.value, ())) - inside
        return len(users) == 1

    def output_size(self, group: _Group) -> int:
        return _written(self.kernels[group.places[-1]])

    def run(self) -> KernelList:
        for place, kernel in enumerate(self.kernels):
            feeding = self._feeding(kernel)
            chosen = self._chosen(kernel, feeding)
            if chosen is None:
                self._groups.append(_Group([]))
                chosen = len(self._groups) - 1
            group = self._groups[chosen]
            group.places.append(place)
            self._owner[place] = chosen
            for other in feeding - {chosen}:
                group.ancestors |= {other} | self._groups[other].ancestors
            for operand in kernel.writes:
                self._writer[operand.value] = place
        order = sorted(self._groups, key=lambda group: group.places[-1])
        return replace(self._listed, kernels=tuple(self._joined(group) for group in order))

    def _feeding(self, kernel: Kernel) -> set[int]:
        places = (self._writer.get(operand.value) for operand in kernel.reads)
        return {self._owner[place] for place in places if place is not None}

    def _chosen(self, kernel: Kernel, feeding: set[int]) -> int | None:
        """The latest group that takes the kernel in and that the kernel does not reach otherwise."""
        for number in sorted(feeding, reverse=True):
            others = feeding - {number}
            if any(number in self._groups[other].ancestors for other in others):
                continue
            if self._joins(self, self._groups[number], kernel):
                return number
        return None

    def _joined(self, group: _Group) -> Kernel:
        members = [self.kernels[place] for place in group.places]
        if len(members) == 1:
            return members[0]
        inside = set(group.places)
        made = {operand.value for member in members for operand in member.writes}
        reads: dict[int, Operand] = {}
        for operand in (o for member in members for o in member.reads):
            known = reads.get(operand.value)
            if operand.value not in made and (known is None or known.nbytes < operand.nbytes):
                reads[operand.value] = operand
        writes = [
            operand
            for member in members
            for operand in member.writes
            if operand.value in self._listed.outputs
            or set(self._readers.get(operand.value, ())) - inside
        ]
        lead = max(members, key=_weight)
        name = "+".join(member.name for member in members)
        return replace(lead, name=name, reads=tuple(reads.values()), writes=tuple(writes))


def _weight(kernel: Kernel) -> tuple[int, int]:
    """What decides the class of a joined kernel: its product, else its reduction, else its size."""
    rank = 2 if kernel.kind in MULTIPLYING else 1 if kernel.kind not in _ELEMENTWISE else 0
    return rank, _size(kernel)


def _size(kernel: Kernel) -> int:
    """How many elements a kernel runs over."""
    return max([operand.elements for operand in (*kernel.reads, *kernel.writes)], default=0)


def _written(kernel: Kernel) -> int:
    return max([operand.elements for operand in kernel.writes], default=0)


def names(listed: KernelList) -> Sequence[str]:
    """What the kernels are made of, for reading and for tests."""
    return [kernel.name for kernel in listed.kernels]
