"""The rules of the house: imports between folders go one way (docs/architecture.md), and docstrings are sentences."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyfit_gpu

PACKAGE = Path(pyfit_gpu.__file__).parent
GROUND = {
    "_version", "devices", "errors", "files", "fused", "fused_trial", "locks", "log", "parallel", "signals", "sums",
}  # fmt: skip
FOLDERS = ["structures", "descriptors", "models", "datasets", "formats", "training", "commands"]
ALLOWED = {name: {*GROUND, *FOLDERS[:k]} for k, name in enumerate(FOLDERS)}
ALLOWED["optimizers"] = GROUND
ALLOWED["training"] |= {"optimizers"}
ALLOWED["interfaces"] = {*GROUND, "structures", "descriptors", "models", "formats"}
ALLOWED["doctor"] = {*GROUND, *FOLDERS[:5]}
ALLOWED["physics"] = {*GROUND, *FOLDERS[:5], "interfaces"}
ALLOWED["report"] = {*GROUND, *FOLDERS[:5], "physics", "doctor"}
ALLOWED["commands"] |= {"optimizers", "interfaces", "doctor", "physics", "report"}
# The ground is flat but for errors, which all may raise, and locks, without which no file is written.
ALLOWED |= {name: {"errors", "_version"} for name in GROUND}
ALLOWED["locks"] |= {"log", "signals"}
ALLOWED["files"] |= {"locks"}
ALLOWED["fused"] |= {"log"}
ALLOWED["fused_trial"] |= {"fused"}
ALLOWED["__init__"] = {*GROUND, *FOLDERS, "optimizers", "interfaces", "doctor", "physics"} - {"commands"}
ALLOWED["__main__"] = {"commands"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Full names of the modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pyfit_gpu")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}, line {node.lineno}: a relative import"
            if node.module == "pyfit_gpu":
                yield from (f"pyfit_gpu.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("pyfit_gpu."):
                yield node.module


def part_of(module: str) -> str:
    """Folder, or module of the ground, that a full name lies in."""
    return module.split(".")[1]


def part_of_file(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    own = part_of_file(file)
    against = {module for module in imported(file) if part_of(module) not in ALLOWED[own] | {own}}
    assert not against, f"{own} imports only {', '.join(sorted(ALLOWED[own]))}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_modules_are_imported_not_faces(file: Path) -> None:
    """Names come from the module that defines them: by way of a folder's `__init__` there would be circles."""
    for module in imported(file):
        path = PACKAGE.parent.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
        node_is_folder = path.is_dir()
        assert not node_is_folder or any(
            isinstance(node, ast.ImportFrom)
            and node.module == module
            and all((path / f"{alias.name}.py").is_file() for alias in node.names)
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        ), f"{file}: {module} is a folder"


def test_no_circles() -> None:
    """Not even between the modules of one folder, imports for types included."""
    graph: dict[str, set[str]] = {}
    for file in FILES:
        name = ".".join(("pyfit_gpu", *file.relative_to(PACKAGE).with_suffix("").parts))
        graph[name] = {module for module in imported(file) if module != name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """Names and docstrings of a file's module, classes and functions; a name without `_` anywhere is public."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield name, text
        for child in ast.iter_child_nodes(node):
            own = f"{name}.{child.name}" if isinstance(child, ast.ClassDef | ast.FunctionDef) else name
            yield from walk(child, own)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), file.stem)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_docstrings_begin_with_what_they_describe(file: Path) -> None:
    """Its verb or its noun, as a sentence: not with a word that hangs in the air, nor in lower case."""
    found = dict(docstrings(file))
    hanging = [name for name, text in found.items() if re.match(r"(Of|What|Those|As)\b", text)]
    assert not hanging, f"begins with Of, What, Those or As: {', '.join(hanging)}"
    public = {name: text for name, text in found.items() if not re.search(r"(^|\.)_(?!_)", name)}
    lower = [name for name, text in public.items() if text[0].islower()]
    assert not lower, f"begins with a lower-case letter: {', '.join(lower)}"


def test_folders_say_what_they_are_for() -> None:
    """`__init__` is a docstring and nothing else: `--help` must not load torch."""
    for folder in {file.parent for file in FILES} - {PACKAGE}:
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1, folder
        assert isinstance(body[0], ast.Expr), folder
