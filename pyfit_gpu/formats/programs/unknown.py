"""Files that are not read: how they are recognised, and the way on, in one table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.text_lines import parse_numbers

_ASE = "`ase convert FILE OUT.extxyz` gives its structures, for predictions"
_ASE_NO_ENERGY = f"it holds no energies; {_ASE}"


class Foreign(NamedTuple):
    """Files of one kind that are not read."""

    test: Callable[[Head], bool]
    title: str  # within a sentence
    remedy: str


def _text(pattern: str, title: str, remedy: str) -> Foreign:
    """Text in which a pattern stands at the beginning of a line, among the first bytes."""
    compiled = re.compile(rb"^[ \t]*(?:" + pattern.encode() + rb")", re.MULTILINE)
    return Foreign(lambda head: head.is_text and compiled.search(head.raw) is not None, title, remedy)


def _first(pattern: str, title: str, remedy: str) -> Foreign:
    """Text that begins with a pattern, blanks aside."""
    compiled = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:" + pattern.encode() + rb")")
    return Foreign(lambda head: head.is_text and compiled.match(head.raw) is not None, title, remedy)


def _binary(marks: tuple[bytes, ...], title: str, remedy: str, offset: int = 0) -> Foreign:
    """Files with certain bytes at a place."""
    return Foreign(lambda head: head.raw.startswith(marks, offset), title, remedy)


def _dpdata(format_name: str) -> str:
    """The way by dpdata, which reads more programs, to a folder that is read here."""
    return f"`dpdata FILE -i {format_name} -o deepmd/npy -O FOLDER` (pip install dpdata), then give FOLDER"


FOREIGN: tuple[Foreign, ...] = (
    _binary((b"PK\3\4",), "a zip archive, or NumPy's .npz", "unpack it and give the files in it"),
    _binary((b"ustar",), "a tar archive", "unpack it and give the files in it", offset=257),
    _binary((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"), "a compressed file", "let its name end in .gz, .bz2 or .xz"),
    _binary((b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"), "a compressed file (zstd, 7z)", "unpack it"),
    _binary(
        tuple(bytes([0x80, protocol]) for protocol in range(2, 6)),
        "a pickle of Python",
        "reading it can run any program; who trusts it writes extended XYZ from it in Python (ase.io.write)",
    ),
    _binary((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16", "save it as UTF-8"),
    _binary((b"\x93NUMPY",), "an array of NumPy", "DeePMD data are read as a folder: give the one with type.raw"),
    _binary((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF"), "an image or a document", "give the data behind it"),
    _binary((b"CDF\1", b"CDF\2", b"CDF\5"), "a netCDF file (ABINIT, AMBER)", _ASE),
    _binary((b"CORD",), "a DCD trajectory", _ASE_NO_ENERGY, offset=4),
    _first(r"version https://git-lfs", "a pointer of Git LFS, not the file itself", "`git lfs pull` fetches it"),
    _first(r"<!DOCTYPE html|<html", "a web page", "the download went wrong"),
    _first(r"ITEM: (?:TIMESTEP|UNITS)", "a dump of LAMMPS", _ASE_NO_ENERGY),
    _text(r"\d+\s+atom types\s*$", "a data file of LAMMPS", f"{_ASE_NO_ENERGY} (with -i lammps-data)"),
    _first(r"LAMMPS \(", "a log of LAMMPS", "it holds no structures"),
    _text(
        r"PRIMVEC|CONVVEC|PRIMCOORD|ANIMSTEPS|ATOMS\s*$|BEGIN_BLOCK_DATAGRID",
        "XSF (XCrySDen, aenet)",
        f"{_ASE}, but leaves out an energy in the comment",
    ),
    _text(r"(?:ATOM  |HETATM)\s*\d+ ", "a PDB file", _ASE_NO_ENERGY),
    _first(r"\**.*PROGRAM STARTED AT|DBCSR\||CP2K\|", "output of CP2K", _dpdata("cp2k/output")),
    _first(
        r"&(?:EXT_RESTART|GLOBAL|FORCE_EVAL)", "input of CP2K, or a restart", "it holds no energies; its output does"
    ),
    _text(
        r"\.Version\s+\S+\s+of ABINIT",
        "output of ABINIT",
        "ASE takes its cell without its lengths; ABINIT's GSR.nc can be read by ASE and written as extended XYZ",
    ),
    _text(r"(?:Siesta Version|SIESTA)\s", "output of SIESTA", _dpdata("siesta/output")),
    _text(r"Welcome to OpenMX|\*+\s*OpenMX", "output of OpenMX", _dpdata("openmx/md")),
    _text(r"WELCOME TO ABACUS|ABACUS v", "output of ABACUS", _dpdata("abacus/scf")),
    _text(r"\d+ atoms,Iteration", "a MOVEMENT of PWmat", _dpdata("pwmat/movement")),
    _text(r"Psi4: An Open-Source", "output of Psi4", _dpdata("psi4/out")),
    _text(r"\|?\s*DFTB\+ ", "output of DFTB+", _dpdata("dftbplus")),
    _text(r".*GAMESS VERSION", "output of GAMESS", "ASE reads its last structure: write it as extended XYZ"),
    _text(r"!BIOSYM archive", "a .car or .arc file (DMol3)", _ASE_NO_ENERGY),
    _first(r"\$coord|\$cell|\$grad", "a file of Turbomole", f"{_ASE} (with -i turbomole or -i turbomole-gradient)"),
    _text(r"&(?:control|system)\b|&(?:CONTROL|SYSTEM)\b", "input of Quantum ESPRESSO", "its output holds the energies"),
    _text(r"(?:lattice_vector|atom_frac)\s", "geometry.in of FHI-aims", "the output of the run holds the energies"),
    _first(r"data_\S+\s", "CIF", "let its name end in .cif"),
    _first(
        r"<\?xml|<\w+[\s>]", "XML that is not VASP's (no <modeling>)", "give the run's output as text, or convert it"
    ),
    _first(
        r'\{\s*["}]|\[\s*[\[{\]]',
        "JSON in a layout that is not known",
        "expected are pymatgen structures with labels, FitSNAP's Dataset, or an ASE database",
    ),
)


def is_foreign(head: Head) -> bool:
    """Whether the first bytes are of a kind that is not read."""
    return _found(head) is not None


def describe(head: Head) -> str:
    """Say how a file looks that is of no kind, and what to do with it: `found ...: ...`."""
    if head.is_folder:
        return "found a folder: a directory of DeePMD data has type.raw and set.*"
    if not head.lines:
        return "found nothing but blanks"
    found = _found(head)
    if found is None:
        return "found text of no known layout" if head.is_text else "found binary data"
    return f"found {found.title}: {found.remedy}"


def _found(head: Head) -> Foreign | None:
    if _is_classic(head):  # its labels may say anything
        return None
    return next((one for one in FOREIGN if one.test(head)), None)


def _is_classic(head: Head) -> bool:
    """Whether a scale factor and a cell follow the first line, as in a POSCAR."""
    rows = [parse_numbers(line.split()[:3]) for line in head.lines[1:5]]
    return len(rows) == 4 and [row is not None and len(row) for row in rows] == [1, 3, 3, 3]
