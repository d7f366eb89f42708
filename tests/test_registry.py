from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lanac.errors import PoolError
from lanac.registry import Registry


@dataclass(frozen=True)
class Thing:
    name: str
    size: int = 0


def package_of_things(folder: Path, **sources: str) -> str:
    """A package in `folder` with one module per keyword; returns its name."""
    name = f"things_{folder.name.replace('-', '_')}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    for module, source in sources.items():
        (folder / name / f"{module}.py").write_text(source)
    importlib.invalidate_caches()
    return name


THING = (
    "class Thing:\n    name = {name!r}\n    def __repr__(self): return {name!r}\nITEM = Thing()\n"
)


def registry_of(package: str, group: str = "no.such.group") -> Registry[Thing]:
    return Registry("thing", package, "ITEM", group, PoolError)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_every_module_of_the_package_gives_its_object(folder: Path) -> None:
    package = package_of_things(
        folder, b=THING.format(name="bee"), a=THING.format(name="ant"), helper="X = 1"
    )
    registry = registry_of(package)
    assert registry.names() == ("ant", "bee")
    assert [thing.name for thing in registry] == ["ant", "bee"]
    assert registry.get("bee").name == "bee"


def test_an_unknown_name_names_the_known_ones(folder: Path) -> None:
    registry = registry_of(package_of_things(folder, a=THING.format(name="ant")))
    with pytest.raises(PoolError) as caught:
        registry.get("ants")
    assert str(caught.value) == "unknown thing 'ants'. Did you mean 'ant'? Known: ant."


def test_a_taken_name_raises_and_overwrites_nothing(folder: Path) -> None:
    registry = registry_of(package_of_things(folder))
    first = registry.add(Thing("ant", 1))
    assert registry.add(first) is first  # the same object again does no harm
    with pytest.raises(PoolError) as caught:
        registry.add(Thing("ant", 2))
    assert str(caught.value) == (
        "thing 'ant' is registered twice: Thing(name='ant', size=1) and "
        "Thing(name='ant', size=2). Give one of them another name."
    )
    assert registry.get("ant").size == 1


def test_an_object_passed_in_cannot_take_the_name_of_one_in_the_package(folder: Path) -> None:
    registry = registry_of(package_of_things(folder, a=THING.format(name="ant")))
    registry.add(Thing("ant", 1))
    with pytest.raises(PoolError, match=r"^thing 'ant' is registered twice: Thing\(name='ant'"):
        registry.names()


def test_a_module_that_fails_is_not_forgotten_by_the_second_call(folder: Path) -> None:
    broken = package_of_things(folder, a=THING.format(name="ant"), b="raise OSError('broken')")
    registry = registry_of(broken)
    for _ in range(2):
        with pytest.raises(OSError, match=r"^broken$"):
            registry.get("ant")


def test_a_registry_with_more_leaves_the_first_one_as_it_is(folder: Path) -> None:
    registry = registry_of(package_of_things(folder, a=THING.format(name="ant")))
    bee = Thing("bee")
    more = registry.having([bee])
    assert (more.names(), registry.names()) == (("ant", "bee"), ("ant",))
    assert more.get("bee") is bee
    assert more.get("ant") is registry.get("ant")
    with pytest.raises(PoolError, match=r"^thing 'bee' is registered twice: "):
        more.having([Thing("bee", 2)])


def installed(folder: Path, source: str, entry: str) -> None:
    """What `pip install lanac-things` would leave: a module and its dist-info."""
    (folder / "lanac_things.py").write_text(source)
    info = folder / "lanac_things-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lanac-things\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[things]\nwasp = lanac_things:{entry}\n")


@pytest.fixture
def forget() -> Iterator[None]:
    yield
    sys.modules.pop("lanac_things", None)


@pytest.mark.usefixtures("forget")
def test_an_entry_point_may_name_a_class(folder: Path) -> None:
    installed(folder, THING.format(name="wasp"), "Thing")
    registry = registry_of(package_of_things(folder), group="things")
    assert registry.get("wasp").name == "wasp"


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("source", "entry", "message"),
    [
        ("raise OSError('broken')", "ITEM", "cannot be loaded: OSError: broken"),
        (
            "X = 1",
            "ITEM",
            "cannot be loaded: AttributeError: module 'lanac_things' has no attribute 'ITEM'",
        ),
        (
            "ITEM = 1",
            "ITEM",
            "is lanac_things:ITEM, which has no name; expected an object with a name",
        ),
    ],
    ids=["fails", "has no such thing", "no name"],
)
def test_a_broken_package_is_named(folder: Path, source: str, entry: str, message: str) -> None:
    installed(folder, source, entry)
    registry = registry_of(package_of_things(folder), group="things")
    with pytest.raises(PoolError) as caught:
        registry.names()
    assert str(caught.value) == (
        f"thing 'wasp' of package lanac-things 1.0 {message}. Mend that package, or remove it."
    )


FAMILY = """
from torch import nn
from lanac.ir import OpSpec


class Pointwise:
    name = "pointwise"
    equation = "y = PW(x)"

    def enumerate(self, view):
        return [OpSpec.of(self.name, bias=0), OpSpec.of(self.name, bias=1)]

    def build(self, op, view):
        channels = view.input_spec.channels, view.output_spec.channels
        return nn.Conv2d(*channels, 1, view.stride, bias=op.number("bias") > 0)


FAMILY = Pointwise()
"""

USE = """
import torch
from torch import nn
from lanac.frontend.partition import partition
from lanac.frontend.tracing import trace
from lanac.ops.base import SlotView
from lanac.ops.build import build_op
from lanac.ops.families import Families
from lanac.ops.pool import enumerate_slot, parse_pool

net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
program = partition(trace(net, (torch.zeros(2, 3, 8, 8),)))
slot = program.slots[0]
ops = enumerate_slot(program, slot, parse_pool("pointwise"))
print([str(op) for op in ops])
print(len(Families().key(ops[1])), Families().is_lanacs("pointwise"))
print(build_op(ops[1], SlotView.of(program, slot), 0))
"""


def test_another_package_adds_a_family_through_an_entry_point(tmp_path: Path) -> None:
    """As `pip install lanac-pointwise` would leave it: a module and its dist-info."""
    (tmp_path / "lanac_pointwise.py").write_text(FAMILY)
    info = tmp_path / "lanac_pointwise-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lanac-pointwise\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lanac.ops]\npointwise = lanac_pointwise:FAMILY\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['teacher', 'pointwise(bias=0)', 'pointwise(bias=1)']",
        "34 False",  # the op, a blank, and the fingerprint of its source
        "Conv2d(3, 8, kernel_size=(1, 1), stride=(2, 2), bias=False)",
    ]
