"""Blocks as classes: equal blocks share one, and so do blocks that differ in a few numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lanac.backends._blocks import Block
from lanac.backends._leaves import HELPERS, REQUIRED, Argument, Leaf, source
from lanac.backends._structures import write_structures
from lanac.errors import BackendError

# More constructor arguments than this hide what a block is; two classes then read better.
MAX_ARGUMENTS = 8
_WIDTH = 100
_FROZEN = "Operators recorded by torch.export: it does in training what it does in evaluation."


@dataclass(frozen=True)
class _Call:
    """A constructor call: of torch.nn, of a helper or of an emitted class."""

    callee: str
    arguments: tuple[Argument, ...]


Calls = dict[str, _Call]


def write_classes(student: Block, ties: Sequence[tuple[str, str]]) -> str:
    """The source of all classes, `Student` last.

    Args:
        student: the whole network.
        ties: pairs (again, first) of parameters that are one.
    """
    blocks = list(dict.fromkeys(_walk(student)))
    parts = [part for block in blocks for part in block.parts.values()]
    helpers = {part.callee for part in parts if isinstance(part, Leaf)}
    functions = _functions(blocks)
    texts = [text for name, text in HELPERS.items() if name in helpers]
    texts += functions.values()
    structures = write_structures(cls for block in blocks for cls in block.structures)
    texts += structures.values()
    names = {"Student", *HELPERS, *functions, *structures}
    made: dict[Block, _Call] = {}
    heights: dict[Block, int] = {}
    for block in blocks:
        inner = [heights[part] for part in block.parts.values() if isinstance(part, Block)]
        heights[block] = 1 + max(inner, default=-1)
    for height in range(heights[student]):
        # A class is written before the classes that use it.
        level = [block for block in blocks if heights[block] == height]
        for members in _groups(level, made):
            name = _free(members[0][0].title, names)
            texts.append(_write_group(name, members, made))
    lines = [f"self.{again} = self.{first}" for again, first in ties]
    texts.append(_class_text("Student", (), _inits(_calls(student, made), {}), student, lines))
    return "\n\n".join(texts)


def _functions(blocks: Sequence[Block]) -> dict[str, str]:
    found: dict[str, str] = {}
    for block in blocks:
        for name, text in block.functions.items():
            if found.setdefault(name, text) != text:
                raise BackendError(
                    f"cannot write the student as PyTorch source: two of the functions that it "
                    f"calls have the name {name}. Rename one, or emit ONNX only (--emit onnx)."
                )
    return found


def _walk(block: Block) -> Iterator[Block]:
    for part in block.parts.values():
        if isinstance(part, Block):
            yield from _walk(part)
    yield block


def _free(wish: str, names: set[str]) -> str:
    name, count = wish, 1
    while name in names:
        count += 1
        name = f"{wish}{count}"
    names.add(name)
    return name


def _calls(block: Block, made: Mapping[Block, _Call]) -> Calls:
    return {
        attribute: made[part] if isinstance(part, Block) else _Call(part.callee, part.arguments)
        for attribute, part in block.parts.items()
    }


Members = list[tuple[Block, Calls]]


def _groups(level: Sequence[Block], made: Mapping[Block, _Call]) -> list[Members]:
    """Blocks that can share a class, in order of first appearance."""
    alike: dict[object, Members] = {}
    for block in level:
        calls = _calls(block, made)
        key = (block.forward, tuple((name, _shape(call)) for name, call in calls.items()))
        alike.setdefault(key, []).append((block, calls))
    groups: list[Members] = []
    for members in alike.values():
        if len(_columns(members)) <= MAX_ARGUMENTS:
            groups.append(members)
            continue
        equal: dict[str, Members] = {}
        for block, calls in members:
            equal.setdefault(repr(calls), []).append((block, calls))
        groups += equal.values()
    return groups


def _shape(call: _Call) -> object:
    """A call without its numbers."""
    kept = ("number" if _is_number(a.value) else repr(a.value) for a in call.arguments)
    names = tuple(argument.name for argument in call.arguments)
    return call.callee, names, tuple(kept)


def _is_number(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_number(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


Place = tuple[str, int]  # attribute, index of the argument


def _columns(members: Members) -> dict[tuple[str, ...], list[Place]]:
    """Places whose values vary, put together where they always have the same value."""
    columns: dict[tuple[str, ...], list[Place]] = {}
    for attribute, call in members[0][1].items():
        for index in range(len(call.arguments)):
            values = tuple(source(calls[attribute].arguments[index].value) for _, calls in members)
            if len(set(values)) > 1:
                columns.setdefault(values, []).append((attribute, index))
    return columns


def _write_group(name: str, members: Members, made: dict[Block, _Call]) -> str:
    """The class that `members` share; tells `made` how each of them is constructed."""
    block, first = members[0]
    taken: set[str] = set()
    variables: dict[Place, str] = {}
    origins: list[tuple[str, Place]] = []
    for places in _columns(members).values():
        attribute, index = places[0]
        wish = first[attribute].arguments[index].name
        wish = f"{attribute}_{wish}" if wish in taken else wish
        taken.add(wish)
        origins.append((wish, places[0]))
        variables |= dict.fromkeys(places, wish)
    for member, calls in members:
        arguments = tuple(
            Argument(wish, calls[attribute].arguments[index].value)
            for wish, (attribute, index) in origins
        )
        made[member] = _Call(name, arguments)
    inits = _inits(first, variables)
    return _class_text(name, [wish for wish, _ in origins], inits, block, [])


def _inits(calls: Calls, variables: Mapping[Place, str]) -> list[str]:
    return [
        line
        for attribute, call in calls.items()
        for line in _init(
            attribute, call, {i: v for (a, i), v in variables.items() if a == attribute}
        )
    ]


def _init(attribute: str, call: _Call, variables: Mapping[int, str]) -> list[str]:
    texts = []
    is_torch = call.callee.startswith("nn.")
    for index, argument in enumerate(call.arguments):
        if index not in variables and not argument.needed:
            continue
        value = variables.get(index) or source(argument.value)
        is_positional = argument.default is REQUIRED and is_torch
        texts.append(value if is_positional else f"{argument.name}={value}")
    if call.callee in ("nn.Parameter", "register_buffer"):
        texts[0] = texts[0].removeprefix("shape=")
        made = f"torch.zeros({', '.join(texts)})"
        if call.callee == "nn.Parameter":
            return [f"self.{attribute} = nn.Parameter({made})"]
        return [f'self.register_buffer("{attribute}", {made})']
    line = f"self.{attribute} = {call.callee}({', '.join(texts)})"
    if len(line) + 8 <= _WIDTH:
        return [line]
    return [f"self.{attribute} = {call.callee}(", *(f"    {text}," for text in texts), ")"]


def _class_text(
    name: str, parameters: Sequence[str], inits: Sequence[str], block: Block, more: Sequence[str]
) -> str:
    lines = [f"class {name}(nn.Module):"]
    if any("torch.ops.aten." in line for line in block.forward):
        lines += [f'    """{_FROZEN}"""', ""]
    head = [f"def __init__({', '.join(['self', *parameters])}):"]
    if len(head[0]) + 4 > _WIDTH:
        head = ["def __init__(", *(f"    {text}," for text in ("self", *parameters)), "):"]
    lines += [f"    {line}" for line in head]
    lines += [f"        {line}" for line in ("super().__init__()", *inits, *more)]
    lines.append("")
    lines += [f"    {line}" for line in block.forward]
    return "\n".join(lines) + "\n"
