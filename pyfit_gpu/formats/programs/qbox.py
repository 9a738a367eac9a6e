"""Output of Qbox: iterations in XML, in Hartree and bohr, stress in GPa and positive for compression."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np
from ase import units

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.programs.assembly import Found, make_frame, numbers_of_symbols
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import parse_numbers
from pyfit_gpu.structures.frames import Frame

_START = re.compile(rb":simulation\s+xmlns:\w+=.http://www\.quantum-simulation\.org")
_BLOCK = re.compile(r"<(?P<tag>species|iteration)\b.*?</(?P=tag)>", re.DOTALL)
_OPENED = re.compile(r"<iteration\b")
_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


def looks_like_qbox(head: Head) -> bool:
    """Whether the file is of Qbox, or of its descendant qb@ll."""
    return _START.search(head.raw[:4096]) is not None


def read_qbox(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read the structure of every ionic iteration.

    Raises:
        InputError: qb@ll, an iteration that does not end or is no XML, or no iteration.
    """
    with reading(path) as file:
        text = file.read()
    if re.search(r"<release>[^<]*(?:qb@ll|qball)", text, re.IGNORECASE):
        raise InputError(f"{path}: written by qb@ll, whose species are not read; convert it to extended XYZ")
    symbols: dict[str, str] = {}
    number = 0
    for block in _BLOCK.finditer(text):
        place = f"{path}, iteration {number + 1}" if block["tag"] == "iteration" else f"{path}, species"
        try:
            tree = ElementTree.fromstring(block[0])
        except ElementTree.ParseError as error:
            raise InputError(f"{place}: expected XML: {error}") from error
        if block["tag"] == "species":
            symbols[tree.get("name", "")] = _text(tree, "symbol", place).strip()
        elif tree.find("atomset") is not None:
            number += 1
            yield _frame(tree, symbols, path, f"{path}, structure {number}")
    if number == 0 or len(_OPENED.findall(text)) != sum(block["tag"] == "iteration" for block in _BLOCK.finditer(text)):
        raise InputError(f"{path}: expected iterations that end, found the end of the file")


def _frame(tree: ElementTree.Element, symbols: dict[str, str], path: str, source: str) -> Frame:
    atoms = tree.findall("atomset/atom")
    cell = tree.find("atomset/unit_cell")
    if cell is None or not atoms:
        raise InputError(f"{source}: expected an atomset with unit_cell and atoms")
    species = [symbols.get(atom.get("species", "")) for atom in atoms]
    return make_frame(
        Found(
            source=source,
            group=name_group(path),
            positions=np.array([_numbers(atom, "position", 3, source) for atom in atoms]) * units.Bohr,
            atomic_numbers=numbers_of_symbols(species, source),
            cell=np.array([_parsed(cell.get(name, ""), 3, f"unit_cell {name}", source) for name in "abc"]) * units.Bohr,
            energy=_energy(tree, source),
            forces=np.array([_numbers(atom, "force", 3, source) for atom in atoms]) * units.Hartree / units.Bohr,
            stress=_stress(tree, source),
        )
    )


def _energy(tree: ElementTree.Element, source: str) -> float:
    found = {_parsed(one.text or "", 1, "etotal", source)[0] for one in tree.findall("etotal")}
    if len(found) != 1:
        raise InputError(f"{source}: expected one etotal, found {len(found)}")
    return found.pop() * units.Hartree


def _stress(tree: ElementTree.Element, source: str) -> list[float] | None:
    """Stress of the electrons and nuclei at rest (sigma_eks): the others count motion and external pressure."""
    for tensor in tree.findall("stress_tensor"):
        if tensor.get("unit") == "GPa" and tensor.find("sigma_eks_xx") is not None:
            return [-_numbers(tensor, f"sigma_eks_{name}", 1, source)[0] * units.GPa for name in _VOIGT]
    return None


def _numbers(tree: ElementTree.Element, name: str, count: int, source: str) -> list[float]:
    return _parsed(_text(tree, name, source), count, name, source)


def _text(tree: ElementTree.Element, name: str, source: str) -> str:
    found = tree.find(name)
    if found is None:
        raise InputError(f"{source}: expected <{name}> in <{tree.tag}>, found none")
    return found.text or ""


def _parsed(text: str, count: int, name: str, source: str) -> list[float]:
    values = parse_numbers(text.split())
    if values is None or len(values) != count:
        raise InputError(f"{source}: {name}: expected {count} numbers, found {text.strip()!r:.60}")
    return values
