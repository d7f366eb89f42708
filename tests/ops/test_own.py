"""Families from outside: how they are found, what they are called, how their source is known."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lanac import Family, OpSpec, SlotView
from lanac.errors import FamilyError, PoolError
from lanac.ops.base import FAMILIES
from lanac.ops.families import INSTALLED, Families
from lanac.ops.fingerprint import fingerprint, source_files
from lanac.ops.own import families_in, own_families

HEAD = "from torch import nn\nfrom lanac import Family, OpSpec\n"
METHODS = (
    "    def enumerate(self, view): return [OpSpec(self.name)]\n"
    "    def build(self, op, view): return nn.Identity()\n"
)
BLUR = f"class Blur(Family):\n    name = 'blur'\n{METHODS}"

Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Writes a module into a folder of its own and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(text: str, name: str = "own_module") -> Any:
        (tmp_path / f"{name}.py").write_text(HEAD + text)
        importlib.invalidate_caches()
        for loaded in set(sys.modules) - before:
            if loaded.startswith("own_"):
                del sys.modules[loaded]
        return importlib.import_module(name)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def names_in(module: Any) -> list[str]:
    return [family.name for family in families_in(module, Path("own_module.py"))]


# What is a family --------------------------------------------------------------------------------


def test_classes_and_objects_of_a_file(load: Load) -> None:
    assert names_in(load(BLUR)) == ["blur"]
    assert names_in(load(f"{BLUR}ONE = TWO = Blur()")) == ["blur"]
    assert names_in(load(BLUR.replace("(Family)", ""))) == ["blur"]  # deriving is no duty


def test_a_base_without_a_name_is_no_family(load: Load) -> None:
    base = f"class Base(Family):\n{METHODS}"
    assert names_in(load(f"{base}class A(Base): name = 'a'\nclass B(Base): name = 'b'")) == [
        "a", "b",
    ]  # fmt: skip
    assert names_in(load(f"{BLUR}class More(Blur): name = 'more'")) == ["blur", "more"]


def test_a_class_with_an_object_is_not_made_again(load: Load) -> None:
    sized = f"class Sized(Family):\n    def __init__(self, k): self.name = f's{{k}}'\n{METHODS}"
    assert names_in(load(f"{sized}FAMILIES = Sized(3)\nMORE = Sized(5)")) == ["s3", "s5"]


def test_what_is_only_imported(load: Load) -> None:
    load(f"{BLUR}BLUR = Blur()", "own_library")
    assert names_in(load("from own_library import BLUR")) == ["blur"]
    others = "from own_library import Blur\nfrom lanac.ops.efn import FAMILY, EfnFamily\n"
    with pytest.raises(FamilyError, match=r"^own_module\.py defines no op family; "):
        names_in(load(others))


def test_where_a_family_is_defined(load: Load, tmp_path: Path) -> None:
    blur = load(BLUR).Blur
    assert own_families([blur]).own["blur"].where == "own_module.py, class Blur"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/")
        patch.setattr("os.path.relpath", lambda path: f"../{path}")
        assert own_families([blur]).own["blur"].where == f"{tmp_path}/own_module.py, class Blur"


def test_the_families_of_a_run_leave_others_alone(load: Load) -> None:
    blur = load(BLUR).Blur()
    families = own_families([blur])
    assert families.get("blur") is blur
    assert families.names() == tuple(sorted(["blur", *INSTALLED.names()]))
    assert families.get("efn") is INSTALLED.get("efn")
    for other in (INSTALLED, Families(), own_families([])):
        with pytest.raises(PoolError, match=r"^unknown op family 'blur'\. "):
            other.get("blur")
    assert families.is_lanacs("efn")
    assert not families.is_lanacs("blur")


def test_a_name_of_an_installed_family(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    other = type("Other", (), {"__module__": "lanac_blur.ops", "name": "blur"})()
    FAMILIES.names()
    monkeypatch.setitem(FAMILIES._items, "blur", other)
    with pytest.raises(FamilyError) as caught:
        own_families([load(BLUR).Blur])
    assert str(caught.value) == (
        "own_module.py, class Blur: the name 'blur' is taken by the family of the package "
        "'lanac_blur'; choose another name"
    )


# Fingerprints ------------------------------------------------------------------------------------


def key_of(module: Any) -> str:
    return own_families([module.Blur]).key(OpSpec("blur"))


def test_ops_of_lanac_are_their_text() -> None:
    op = OpSpec.of("efn", e=3, k=3, se=0)
    assert Families().key(op) == "efn(e=3,k=3,se=0)"
    assert Families().key(OpSpec("teacher")) == "teacher"


def test_an_edited_file_has_another_fingerprint(load: Load) -> None:
    first, same, other = (key_of(load(text)) for text in (BLUR, BLUR, f"{BLUR}# edited"))
    assert first == same != other
    assert first.startswith("blur ")


def test_neighbours_count_and_strangers_do_not(load: Load) -> None:
    user = f"import own_parts\nfrom own_more import part\n{BLUR}"
    keys = []
    for parts, more in (("A = 1", "B = 1"), ("A = 2", "B = 1"), ("A = 2", "B = 2")):
        load(parts, "own_parts")
        load(f"{more}\ndef part(): pass", "own_more")
        load("C = 1", "own_stranger")
        module = load(user)
        keys.append(key_of(module))
        names = {path.name for path in source_files(module.Blur)}
        assert names == {"own_module.py", "own_parts.py", "own_more.py"}
    assert len(set(keys)) == 3


def test_the_files_of_its_bases_count(load: Load) -> None:
    keys = []
    for text in (BLUR, f"{BLUR}# edited"):
        load(text, "own_base")
        module = load("import own_base\nclass Own(own_base.Blur): pass\ndel own_base")
        keys.append(fingerprint(module.Own()))
    assert keys[0] != keys[1]


class Held(Family):
    name = "held"

    def __init__(self, value: Any) -> None:
        self.value = value

    def enumerate(self, view: SlotView) -> list[OpSpec]:
        return []

    def build(self, op: OpSpec, view: SlotView) -> nn.Module:
        return nn.Identity()


def two(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (3, 4),
        (3, 3.0),
        ("3", 3),
        ((1, 2), (2, 1)),
        ([1], (1,)),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (torch.ones(2), torch.zeros(2)),
        (np.ones(2), np.ones(3)),
        (Held(1), Held(2)),
        (nn.ReLU, nn.SiLU),
        (partial(two, 1), partial(two, 2)),
        (lambda x: x, lambda x: -x),
        (torch.float32, torch.float16),
    ],
)
def test_what_an_object_holds_counts(one: Any, other: Any) -> None:
    assert fingerprint(Held(one)) == fingerprint(Held(one))
    assert fingerprint(Held(one)) != fingerprint(Held(other))


def test_modules_count_by_their_weights() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert fingerprint(Held(one)) != fingerprint(Held(other))
    other.load_state_dict(one.state_dict())
    assert fingerprint(Held(one)) == fingerprint(Held(other))


def test_an_object_that_holds_itself() -> None:
    family = Held(None)
    family.value = [family]
    assert fingerprint(family) == fingerprint(family)


def test_what_cannot_be_looked_into_is_never_the_same() -> None:
    family = Held(iter(()))
    assert fingerprint(family) != fingerprint(family)


def test_a_class_without_a_file_is_never_the_same() -> None:
    family = type("Cell", (Held,), {"__module__": "a notebook"})(3)
    assert fingerprint(family) != fingerprint(family)
    assert own_families([family]).own["held"].where == "class Cell"
    families = own_families([family])
    assert families.key(OpSpec("held")) == families.key(OpSpec("held"))  # within one run it is


def test_a_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "own_module.py").write_text(f"{HEAD}{BLUR}")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import own_module, torch\n"
        "from lanac.ops.fingerprint import fingerprint\n"
        "family = own_module.Blur()\n"
        "family.held = {'b': {1, 'x', (2, 3)}, 'a': [torch.ones(2), own_module.Blur]}\n"
        "print(fingerprint(family))\n"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert first == second
    assert len(first.strip()) == 16
