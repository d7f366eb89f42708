"""The house rules of docs/architecture.md that a machine can hold."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lanac

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lanac"
FILES = sorted(PACKAGE.rglob("*.py"))

OPEN_TO_ALL = {"errors", "registry", "version"}
BELOW_PASSES = {"ir", "frontend", "ops", "targets", "solver", "search", "training", "backends"}
PUBLIC_SIDE = {
    "abilities", "benching", "comparison", "compilation", "compiler", "explaining", "exporting",
    "fronts", "inspection", "instruments", "measuring", "predicting",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "__init__": {
        "beginning",
        "benching",
        "comparison",
        "compilation",
        "compiler",
        "explaining",
        "exporting",
        "fronts",
        "inspection",
        "instruments",
        "measuring",
    }
    | {"ir", "ops", "passes", "predicting", "settings"},
    "__main__": {"cli"},
    "errors": set(),
    "version": set(),
    "settings": set(),
    "registry": set(),
    "instruments": set(),
    "workspace": set(),
    "ir": set(),
    "frontend": {"ir"},
    "ops": {"ir"},
    "targets": {"ir"},
    "solver": {"ir"},
    "search": {"solver"},
    "training": {"ir", "workspace"},
    "backends": {"ir", "targets"},
    "compilation": BELOW_PASSES | {"instruments", "workspace"},
    "passes": BELOW_PASSES | {"compilation", "instruments", "workspace"},
    "beginning": BELOW_PASSES | {"compilation", "instruments", "workspace", "passes", "settings"},
    "compiler": {
        "backends",
        "beginning",
        "compilation",
        "ir",
        "ops",
        "passes",
        "report",
        "settings",
    }
    | {"targets", "training"},
    "explaining": {"finished", "ir", "solver"},
    "abilities": {"backends", "targets"},
    "benching": {"backends", "finished", "instruments", "ir", "targets"},
    "exporting": {"backends", "compiler", "finished", "targets", "workspace"},
    "finished": {"targets", "workspace"},
    "fronts": BELOW_PASSES | {"beginning", "compilation", "compiler", "passes", "settings"},
    "comparison": BELOW_PASSES
    | {"beginning", "compilation", "compiler", "passes", "settings", "workspace"},
    "inspection": BELOW_PASSES | {"beginning", "compilation", "instruments", "workspace", "passes"},
    "measuring": BELOW_PASSES | {"compilation", "inspection", "instruments", "passes", "workspace"},
    "predicting": {"beginning", "ir", "targets", "training"},
    "report": PUBLIC_SIDE | {"ir", "passes", "targets", "workspace"},
    "cli": PUBLIC_SIDE
    | {"backends", "frontend", "ir", "ops", "report", "settings", "targets", "workspace"},
}
"""What a part of lanac may import beside itself and what is open to all."""

WALLED_IN = {
    "pyscipopt": {"solver/scip.py"},
    "onnxruntime": {"backends/onnxruntime.py"},
    "sqlite3": {"workspace.py"},
    "networkx": {"frontend/regions.py"},
    "onnx_graphsurgeon": {"backends/onnx.py"},
    "polygraphy": {"backends/_engines.py"},
    "openvino": {"backends/openvino.py"},
    "timm": {"frontend/zoo_timm.py"},
    "torchvision": {"frontend/zoo_torchvision.py", "frontend/image_folder.py"},
    "typer": {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "cli").glob("*.py")},
}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    """`ir` for lanac/ir/spec.py, `errors` for lanac/errors.py."""
    return relative(path).split("/")[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Everything imported anywhere in a file, functions and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "lanac imports by full names"
            assert node.module is not None
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "lanac" else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_the_allowed_way(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"add {part!r} to ALLOWED, and to the architecture"
    parts = {
        name.split(".")[1]
        for name in imported_modules(parse(path))
        if name.split(".")[0] == "lanac" and "." in name
    }
    allowed = OPEN_TO_ALL | ALLOWED[part] | {part}
    assert parts <= allowed, f"{relative(path)} imports {sorted(parts - allowed)}"


def test_ir_imports_only_the_errors_of_lanac() -> None:
    imported = {
        name
        for path in (PACKAGE / "ir").glob("*.py")
        for name in imported_modules(parse(path))
        if name.startswith("lanac") and not name.startswith("lanac.ir")
    }
    assert imported == {"lanac.errors"}


@pytest.mark.parametrize("library", sorted(WALLED_IN))
def test_a_walled_in_library_is_imported_by_its_own_files_alone(library: str) -> None:
    users = {
        relative(path)
        for path in FILES
        if any(name.split(".")[0] == library for name in imported_modules(parse(path)))
    }
    assert users <= WALLED_IN[library]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_that_is_loaded_executes_code(path: Path) -> None:
    tree = parse(path)
    assert not {name.split(".")[0] for name in imported_modules(tree)} & {
        "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy",
    }  # fmt: skip
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    forbidden = {"eval", "exec", "__import__", "torch.load", "torch.save", "os.system"}
    assert not calls & forbidden
    executing = {call for call in calls if call.endswith("exec_module")}
    # The user's own file, and the source that this very run has emitted and is about to verify.
    assert not executing or relative(path) in ("frontend/model_file.py", "backends/pytorch.py")


def test_the_public_api_is_there() -> None:
    for name in lanac.__all__:
        assert getattr(lanac, name) is not None
    assert lanac.__all__ == sorted(lanac.__all__)
    with pytest.raises(AttributeError, match=r"^module 'lanac' has no attribute 'compyle'$"):
        _ = lanac.compyle


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_all_names_what_is_there(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if name in ("lanac.__main__", "lanac"):
        return
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ names {public!r}"


HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "pyscipopt", "networkx")


@pytest.mark.parametrize(
    "statement",
    [
        "import lanac",
        "import lanac.errors, lanac.registry, lanac.cli.main",
        "import sys; sys.argv = ['lanac', '--help']\n"
        "from lanac.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code",
    ],
    ids=["lanac", "cli", "help"],
)
def test_what_is_needed_for_help_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint('\\nloaded:', sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_is_two_things(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_module_is_documented(path: Path) -> None:
    tree = parse(path)
    if not tree.body:
        return
    assert ast.get_docstring(tree) or path.name == "__main__.py", f"{path} has no docstring"


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_the_top_level_shows_the_parts_of_the_compiler(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.resolve() == (PACKAGE / name).resolve()
    assert not link.readlink().is_absolute()


def test_tests_mirror_the_package() -> None:
    """Every folder of tests is a part of lanac, so that a test is found where its code is."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not list((ROOT / "tests").rglob("__init__.py"))
