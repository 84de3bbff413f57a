"""The house keeps its floors, and every public name is documented and checked."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import jaxdiv
from tests.registry import CASES

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "jaxdiv"

# A room may import from lower floors only; the private modules and `loop`, `typing`
# are the ground floor and know each other.
FLOORS = {
    "implicit": 1,
    "kernels": 1,
    "special": 1,
    "discrepancy": 2,
    "distributions": 2,
    "divergence": 2,
    "transport": 2,
    "diffusion": 3,
    "metrics": 3,
    "networks": 4,
    "training": 4,
    "datasets": 4,
}
OUTSIDE = {"chex", "jax", "numpy", "optax", "scipy"}  # what floors 0 to 3 stand on
HEAVY = ("flax", "grain", "matplotlib", "mlxtend", "orbax", "ott", "sklearn", "tqdm")
ROOMS = [name for name in jaxdiv.__all__ if name != "typing"]
ROOMS += ["implicit.layers", "implicit.projection"]  # rooms within a room


def floor(room):
    return FLOORS.get(room, 0)


def imports(path):
    """(module, at the top of the file) for every import in a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module in ("jaxdiv", "examples"):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", id(node) in top
            else:
                yield node.module, id(node) in top


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    "path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES]
)
def test_imports_go_down(path):
    room = room_of(path)
    if room == "__init__":  # it names all rooms, for type checkers
        return
    for module, at_top in imports(path):
        parts = module.split(".")
        if parts[0] == "jaxdiv":
            target = parts[1]
            assert target == room or floor(target) < max(floor(room), 1), (
                f"{path.name} on floor {floor(room)} imports {module}"
            )
        elif at_top and floor(room) < 4:
            known = parts[0] in OUTSIDE or parts[0] in sys.stdlib_module_names
            assert known, f"{path.name} on floor {floor(room)} imports {module}"


def test_every_room_has_a_floor():
    rooms = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_examples_use_the_public_api(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for module, _ in imports(path):
            private = any(part.startswith("_") for part in module.split(".")[1:])
            assert not (module.startswith("jaxdiv") and private), f"{path}: {module}"


def test_heavy_packages_load_where_they_are_used():
    light = [name for name, level in FLOORS.items() if level < 4]
    code = f"""
import importlib, sys
import jaxdiv
for room in {light}:
    importlib.import_module("jaxdiv." + room)
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def public():
    for room in ROOMS:
        module = importlib.import_module(f"jaxdiv.{room}")
        assert module.__doc__, f"jaxdiv.{room} has no docstring"
        assert list(module.__all__) == sorted(module.__all__), f"jaxdiv.{room}.__all__"
        for name in module.__all__:
            if f"{room}.{name}" not in ROOMS:
                yield f"jaxdiv.{room}.{name}", getattr(module, name)


PUBLIC = dict(public())
FUNCTIONS = {name: x for name, x in PUBLIC.items() if inspect.isfunction(x)}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented(name):
    x = PUBLIC[name]
    assert callable(x), f"{name} is neither function nor class"
    doc = inspect.getdoc(x) or ""
    assert len(doc.splitlines()) > 1, f"{name} has no full docstring"
    if inspect.isfunction(x):
        assert ">>>" in doc, f"{name} has no runnable example"
        signature = inspect.signature(x)
        for parameter in signature.parameters.values():
            assert parameter.annotation is not parameter.empty, (name, parameter)
        assert signature.return_annotation is not signature.empty, name
        listed = [p for p in signature.parameters if p not in doc]
        assert not listed, f"{name} does not document {listed}"
    elif issubclass(x, tuple):
        missing = [field for field in x._fields if f"{field}:" not in doc]
        assert not missing, f"{name} does not document {missing}"


def test_every_public_function_is_in_the_registry():
    covered = {case.name for case in CASES}
    assert covered <= set(PUBLIC), sorted(covered - set(PUBLIC))
    assert set(FUNCTIONS) <= covered, sorted(set(FUNCTIONS) - covered)
