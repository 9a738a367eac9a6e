"""Public names: `__all__`, the table behind it, and the page that describes them agree."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

import pyfit_gpu

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
PUBLIC = set(pyfit_gpu.__all__)


@pytest.mark.parametrize("name", pyfit_gpu.__all__)
def test_every_name_can_be_had(name: str) -> None:
    assert getattr(pyfit_gpu, name) is not None
    assert name in dir(pyfit_gpu)


def test_names_for_type_checkers() -> None:
    """They read the imports that never run."""
    tree = ast.parse(Path(pyfit_gpu.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {
        (alias.name, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert found == {(name, f"pyfit_gpu.{home}") for name, home in pyfit_gpu._HOMES.items()}
    assert {*pyfit_gpu._HOMES, "__version__"} == PUBLIC


def test_all_are_described() -> None:
    assert not {name for name in PUBLIC - {"__version__"} if not re.search(rf"`[^`]*\b{name}\b[^`]*`", PAGE)}


def test_nothing_else_is_described() -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    text = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", text)
    used = set(re.findall(r"\bpf\.(\w+)", code))
    used |= {match[0] for span in spans if (match := re.match(r"[A-Z][a-z]\w+", span))}  # classes
    first_cells = " ".join(line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `"))
    used |= set(re.findall(r"`(\w+)\(", first_cells))
    assert "pyfit_gpu." not in code
    assert not {name for name in used - PUBLIC if not hasattr(builtins, name)}
    assert len(used & PUBLIC) > 20


def test_another_name() -> None:
    with pytest.raises(AttributeError, match="module 'pyfit_gpu' has no attribute 'nonsense'"):
        pyfit_gpu.nonsense  # noqa: B018
