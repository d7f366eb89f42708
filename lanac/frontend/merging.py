"""What regions compute, and which of a chain belong together: rules on the graph alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from lanac.frontend.regions import Flow, Region
from lanac.ir import Program, TensorSpec, function_name, node_parameters

_MAPS = {
    *("linear", "bilinear", "matmul", "bmm", "mm", "baddbmm", "addmm", "einsum", "tensordot"),
    *("conv1d", "conv2d", "conv3d", "convolution", "embedding"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
}
"""Functions in which a weight couples channels; elsewhere (a sum, a product) it does not."""

_FORMS = {
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "movedim",
    "contiguous",
}
"""What only changes the form of a tensor."""

MAX_DEPTH = 6
"""Layers in sequence that one slot may hold; a residual block has two to six."""


class RegionFacts:
    """What the rules ask of a region; all of it from the graph."""

    def __init__(self, program: Program, flow: Flow) -> None:
        self._program, self._flow = program, flow
        self._layers = {
            node.name for node in program.teacher.graph.nodes if self._is_layer(program, node)
        }
        self._weights_of = self._find_weights()
        self._readers: dict[int, set[str]] = {}
        for name, weights in self._weights_of.items():
            for weight in weights:
                self._readers.setdefault(weight, set()).add(name)

    @staticmethod
    def _is_layer(program: Program, node: fx.Node) -> bool:
        weights = [v for v in node_parameters(program.teacher, node) if v.dim() > 1]
        if node.op == "call_module":
            return bool(weights)
        sources = list(node.all_input_nodes)
        is_map = function_name(node) in _MAPS
        while is_map and sources:
            source = sources.pop()
            if any(v.dim() > 1 for v in node_parameters(program.teacher, source)):
                return source.op == "get_attr"
            if source.name not in program.specs or len(source.all_input_nodes) == 1:
                # A weight may be transposed or reshaped on its way.
                sources += [s for s in source.all_input_nodes if _is_weight(s)]
        return False

    def _find_weights(self) -> dict[str, set[int]]:
        """The weights that each node of the flow reads, directly or through what is made of them."""
        made_of: dict[str, set[int]] = {}
        for node in self._program.teacher.graph.nodes:
            weights = {id(value) for value in node_parameters(self._program.teacher, node)}
            for source in node.all_input_nodes:
                if source.name not in self._flow:
                    weights |= made_of[source.name]
            made_of[node.name] = weights
        return {name: weights for name, weights in made_of.items() if name in self._flow}

    def layers(self, region: Region) -> list[str]:
        """The nodes whose weights couple channels: convolutions, linear layers, opaque modules."""
        return [name for name in region.nodes if name in self._layers]

    def depth(self, region: Region) -> int:
        """Layers in sequence; those that see a pooled map (squeeze and excite) do not count."""
        longest: dict[str, int] = {}
        for name in region.nodes:
            before = max((longest.get(source, 0) for source in self._flow.sources(name)), default=0)
            longest[name] = before + (name in self._layers and not self._is_pooled(name))
        return longest[region.exit]

    def _is_pooled(self, name: str) -> bool:
        spec = self._program.specs.get(name)
        return spec is not None and spec.rank > 2 and set(spec.spatial) == {1}

    def weights(self, region: Region) -> list[Tensor]:
        teacher, nodes = self._program.teacher, self._program.nodes
        return [value for name in region.nodes for value in node_parameters(teacher, nodes[name])]

    def shares_weights(self, region: Region) -> bool:
        """Uses a weight that is used elsewhere as well."""
        inside = set(region.nodes)
        return any(
            not self._readers[weight] <= inside
            for name in region.nodes
            for weight in self._weights_of.get(name, ())
        )

    def is_affine(self, region: Region) -> bool:
        """No weight couples channels: norms, scales, activations, pools."""
        return not self.layers(region)

    def spec_in(self, region: Region) -> TensorSpec:
        return self._program.specs[region.entry]

    def spec_out(self, region: Region) -> TensorSpec:
        return self._program.specs[region.exit]

    def removes_space(self, region: Region) -> bool:
        """Global pooling, flattening: what follows belongs to a head, not to a feature map."""
        before, after = self.spec_in(region), self.spec_out(region)
        if before.rank != after.rank:
            return True
        return set(after.spatial) == {1} and set(before.spatial) != {1}

    def sees_vectors(self, region: Region) -> bool:
        """Its input is one vector per sample: (B, C) or (B, C, 1, 1)."""
        spec = self.spec_in(region)
        return spec.rank == 2 or set(spec.spatial) == {1}

    def only_reshapes(self, region: Region) -> bool:
        """Neither weights nor arithmetic: the tensor gets another form."""
        tensors = [self._program.nodes[name] for name in region.nodes if name in self._flow]
        return all(function_name(node) in _FORMS for node in tensors)

    def is_gate(self, region: Region) -> bool:
        """Ends in a product with its own input: a squeeze-excite gate."""
        last = self._program.nodes[region.exit]
        is_product = function_name(last) in ("mul", "mul_", "imul")
        return is_product and any(node.name == region.entry for node in last.all_input_nodes)

    def is_sum(self, region: Region) -> bool:
        """Ends in a sum of two tensors: a residual block, or a part of one."""
        last = self._program.nodes[region.exit]
        is_sum = function_name(last) in ("add", "add_", "iadd")
        return is_sum and len(self._flow.sources(region.exit)) > 1

    def passes_its_input_on(self, region: Region) -> bool:
        """Ends in a concatenation with its own input: a skip over what lies between."""
        last = self._program.nodes[region.exit]
        is_concat = function_name(last) in ("cat", "concat", "concatenate")
        return is_concat and region.entry in self._flow.sources(region.exit)

    def reads_sizes_from_outside(self, region: Region) -> bool:
        inside = {region.entry, *region.nodes}
        return any(
            source.name not in inside and source.name not in self._program.specs
            for name in region.nodes
            for source in self._program.nodes[name].all_input_nodes
        )

    def convolutions(self, region: Region) -> list[nn.Conv2d]:
        modules = [
            self._program.teacher.get_submodule(str(node.target))
            for node in map(self._program.nodes.__getitem__, region.nodes)
            if node.op == "call_module"
        ]
        return [module for module in modules if isinstance(module, nn.Conv2d)]

    def skips(self, region: Region) -> int:
        """How many nodes combine two tensors: sums of a residual block, products of a gate."""
        return sum(len(self._flow.sources(name)) > 1 for name in region.nodes)

    def is_linear(self, region: Region) -> bool:
        """Ends in a convolution or a norm: no activation behind the last layer."""
        last = self._program.nodes[region.exit]
        return bool(node_parameters(self._program.teacher, last))


def _is_weight(node: fx.Node) -> bool:
    """Whether a node is a weight or made of one weight by changing its form."""
    return node.op == "get_attr" or (
        len(node.all_input_nodes) == 1 and _is_weight(node.all_input_nodes[0])
    )


def merge_regions(chain: Sequence[Region], facts: RegionFacts) -> list[Region]:
    """Joins what belongs together in a chain: norms and activations with their layer, a pooling
    head with its classifier, the layers behind it, the three layers of an inverted residual
    without a skip."""
    return _merge_heads(_merge_inverted_residuals(merge_affine(chain, facts), facts), facts)


def merge_affine(chain: Sequence[Region], facts: RegionFacts) -> list[Region]:
    """Joins norms, activations, pools and gates with the layer that they belong to."""
    merged: list[Region] = []
    head: Region | None = None
    for region in chain:
        if facts.is_affine(region) and facts.shares_weights(region):
            merged += [region] if head is None else [head, region]  # it would spoil its neighbours
            head = None
            continue
        if head is not None:
            keeps_shape = facts.spec_in(region) == facts.spec_out(region)
            if facts.only_reshapes(head) and keeps_shape and not facts.is_affine(region):
                merged.append(head)  # a block that keeps its shape is worth more: it can be skipped
            else:
                region = _join(head, region)
            head = None
        # A size from elsewhere (resizing to the network's input) would close the slot's border.
        is_free = not facts.reads_sizes_from_outside(region)
        if facts.removes_space(region) and facts.is_affine(region):
            head = region
        elif merged and is_free and (facts.is_affine(region) or facts.is_gate(region)):
            merged[-1] = _join(merged[-1], region)
        elif not merged and facts.is_affine(region):
            head = region
        else:
            merged.append(region)
    if head is not None:
        merged.append(head)
    return merged


def _join(first: Region, second: Region) -> Region:
    return Region(first.entry, first.nodes + second.nodes)


def _merge_inverted_residuals(regions: Sequence[Region], facts: RegionFacts) -> list[Region]:
    """[expanding][depthwise][linear 1x1], [depthwise][linear 1x1], [expanding kxk][linear 1x1]."""
    result: list[Region] = []
    for region in regions:
        result.append(region)
        if not _is_single(region, facts) or not _is_linear_1x1(region, facts):
            continue
        before = [item for item in result[-3:-1] if _is_single(item, facts)]
        if not before or before[-1] is not result[-2]:
            continue
        if _is_depthwise(before[-1], facts):
            result[-2:] = [_join(before[-1], region)]
            if len(before) == 2 and _expands(before[0], facts) and _is_pointwise(before[0], facts):
                result[-2:] = [_join(before[0], result[-1])]
        elif _expands(before[-1], facts) and not _is_pointwise(before[-1], facts):
            result[-2:] = [_join(before[-1], region)]
    return result


def _merge_heads(regions: Sequence[Region], facts: RegionFacts) -> list[Region]:
    """[pool, layer][layer] ...: the layers that see one vector per sample are one head."""
    result: list[Region] = []
    for region in regions:
        if result and facts.sees_vectors(region) and facts.removes_space(result[-1]):
            result[-1] = _join(result[-1], region)
        else:
            result.append(region)
    return result


def _is_single(region: Region, facts: RegionFacts) -> bool:
    """One layer, perhaps with a squeeze-excite gate behind it (two small layers, one product)."""
    count = len(facts.convolutions(region))
    return (count, facts.skips(region)) in {(1, 0), (3, 1)}


def _is_pointwise(region: Region, facts: RegionFacts) -> bool:
    main = facts.convolutions(region)[0]
    return main.kernel_size == (1, 1) and main.groups == 1


def _is_linear_1x1(region: Region, facts: RegionFacts) -> bool:
    return _is_pointwise(region, facts) and facts.is_linear(region)


def _is_depthwise(region: Region, facts: RegionFacts) -> bool:
    main = facts.convolutions(region)[0]
    return main.groups == main.in_channels > 1


def _expands(region: Region, facts: RegionFacts) -> bool:
    main = facts.convolutions(region)[0]
    return main.groups == 1 and main.out_channels > main.in_channels
