"""Outputs of electronic-structure programs that ASE reads in known units, and that are checked here.

A program is in the table if the source of ASE's reader shows that it converts to eV and Å and gives every structure,
and if what it takes silently (steps that did not converge, a file that ends early, energies of another kind) can be
told from the text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.programs.assembly import Found, make_frame
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.structures.frames import Frame

if TYPE_CHECKING:
    from ase import Atoms

# ASE makes arrays for as many atoms as a file declares.
_DECLARED = re.compile(r"number of (?:atoms|ions)[^\n\d]*?[:=.]\s*(\d+)", re.IGNORECASE)

Check = Callable[[str, Sequence["Atoms"]], str | None]  # text and structures; what is wrong, if anything


@dataclass(frozen=True)
class Program:
    """A program whose output is read, and what makes its numbers unfit for training; patterns are searched by line."""

    name: str
    format: str  # ASE's name
    mark: re.Pattern[bytes]  # stands among the first bytes
    step: str  # pattern of a line that every structure has before its energy is final, to number the structures
    unconverged: str  # pattern that tells of electrons that did not converge; "": the output does not tell
    end: str = ""  # pattern of the end of a whole run; "": not told
    check: Check | None = None


def _espresso(text: str, images: Sequence[Atoms]) -> str | None:
    if re.search(r"^!!\s+total energy", text, re.MULTILINE) or "EXX self-consistency" in text:
        return "a hybrid functional has several energies for one structure, and ASE takes the first"
    with_energy = sum("energy" in atoms.calc.results for atoms in images)
    found = len(re.findall(r"^!\s+total energy", text, re.MULTILINE))
    return None if found == with_energy else f"{found} energies for {with_energy} structures"


def _aims(text: str, images: Sequence[Atoms]) -> str | None:
    converged = text.count("Self-consistency cycle converged")
    if converged < len(images):
        return f"the electrons of {converged} of {len(images)} structures converged"
    found = text.count("Energy and forces in a compact form")  # its energy is in eV, those before it also in Hartree
    return None if found >= len(images) else f"{found} final energies for {len(images)} structures"


def _gpaw(text: str, images: Sequence[Atoms]) -> str | None:
    found = len(re.findall(r"^Positions:\s*$", text, re.MULTILINE | re.IGNORECASE))
    return None if found == len(images) else f"{len(images)} of {found} structures have an energy"


def _castep(text: str, images: Sequence[Atoms]) -> str | None:
    if len(re.findall(r"^.*(?:Welcome to|Materials Studio).*CASTEP", text, re.MULTILINE)) > 1:
        return "several runs in one file, of which ASE reads the last"
    expected = {"length": "A", "energy": "eV", "force": "eV/A", "pressure": "GPa"}
    for quantity, unit in re.findall(r"^\s*output\s+(\w+) unit\s*:\s*(\S+)", text, re.MULTILINE):
        if unit != expected.get(quantity, unit):
            return f"its {quantity} unit is {unit}, and ASE takes it as {expected[quantity]}"
    return None


def _castep_steps(text: str, images: Sequence[Atoms]) -> str | None:
    found = len(re.findall(r"<-- E\s*$", text, re.MULTILINE))
    return None if found == len(images) else f"{found} energies for {len(images)} structures (cut off?)"


def _gaussian(text: str, images: Sequence[Atoms]) -> str | None:
    blocks = len(re.findall(r"^\s*Center\s+Atomic\s+Forces\s", text, re.MULTILINE))
    if blocks > text.count("Input orientation:"):
        return "forces without an 'Input orientation' would belong to turned coordinates: run with #P or NoSymmetry"
    return None


def _nwchem(text: str, images: Sequence[Atoms]) -> str | None:
    if re.search(r"\* +NWPW ", text):
        return "of the plane-wave module, whose output is not read"
    return "a step without a geometry" if any(atoms is None for atoms in images) else None


PROGRAMS = (
    Program(
        "Quantum ESPRESSO (pw.x)",
        "espresso-out",
        re.compile(rb"Program PWSCF"),
        step=r"^!\s+total energy",
        unconverged=r"convergence NOT achieved",
        end=r"JOB DONE",
        check=_espresso,
    ),
    Program(
        "FHI-aims",
        "aims-output",
        re.compile(rb"Invoking FHI-aims"),
        step=r"Self-consistency cycle converged",
        unconverged=r"Self-consistency cycle not yet converged(?! - restarting)",
        end=r"Have a nice day\.",
        check=_aims,
    ),
    Program(
        "GPAW",
        "gpaw-out",
        re.compile(rb"___ ___ ___ _ _ _"),
        step=r"^Converged after",
        unconverged=r"[Dd]id not converge",
        check=_gpaw,
    ),
    Program(
        "CASTEP",
        "castep-castep",
        re.compile(rb"(?:Welcome to|Materials Studio)[^\n]*CASTEP"),
        step=r"^Final energy",
        unconverged=r"has not reached the ground ?state|electronic minimisation did not converge",
        end=r"Finalisation time   =",
        check=_castep,
    ),
    Program(
        "CASTEP (.geom, .md)",
        "castep-md",
        re.compile(rb"\A\s*BEGIN header.*?END header.*?<-- E", re.DOTALL),
        step=r"<-- E\s*$",
        unconverged="",
        check=_castep_steps,
    ),
    Program(
        "Gaussian",
        "gaussian-out",
        re.compile(rb"Entering Gaussian System"),
        step=r"SCF Done:",
        unconverged=r"Convergence failure|SCF has not converged",
        end=r"Normal termination of Gaussian",
        check=_gaussian,
    ),
    Program(
        "ORCA",
        "orca-output",
        re.compile(rb"\* O   R   C   A \*"),
        step=r"FINAL SINGLE POINT ENERGY",
        unconverged=r"SCF NOT CONVERGED|SCF has not converged|Wavefunction not fully converged",
        end=r"ORCA TERMINATED NORMALLY",
    ),
    Program(
        "NWChem",
        "nwchem-out",
        re.compile(rb"Northwest Computational Chemistry Package"),
        step=r"Total (?:DFT|SCF) energy =",
        unconverged=r"[Cc]alculation failed to converge",
        end=r"Total times  cpu:",
        check=_nwchem,
    ),
)


def program_of(head: Head) -> Program | None:
    """The program that wrote a file, by its first bytes; None: none of the table."""
    return next((one for one in PROGRAMS if one.mark.search(head.raw)), None)


def looks_like_output(head: Head) -> bool:
    """Whether a program of the table wrote the file."""
    return program_of(head) is not None


def read_output(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read every structure, with the force-consistent energy where there is one.

    Raises:
        InputError: the run did not end or converge, ASE cannot read it, or what it reads is not what the file says.
    """
    program = program_of(read_head(path))
    if program is None:
        raise InputError(f"{path}: expected output of {', '.join(one.name for one in PROGRAMS)}")
    with reading(path, "latin-1") as file:
        text = file.read()
    if "\0" in text:
        raise InputError(f"{path}: expected output of {program.name}, found binary data")
    for count in _DECLARED.findall(text):
        if len(count) > 9 or int(count) > text.count("\n"):
            raise InputError(f"{path}: expected output of {program.name}, found {count} atoms and fewer lines")
    if program.end and not re.search(program.end, text):
        raise InputError(f"{path}: the run of {program.name} did not end: expected {program.end!r}")
    if program.unconverged and (fault := re.search(program.unconverged, text)):
        begin = text.rfind("\n", 0, fault.start()) + 1
        line = text[begin:].split("\n", 1)[0].strip()
        number = len(re.findall(program.step, text[:begin], re.MULTILINE)) + 1
        raise InputError(f"{path}, structure {number}: the electrons did not converge: {line[:100]!r}")
    images = _images(path, program, text)
    if program.check is not None and (wrong := program.check(text, images)):
        raise InputError(f"{path}: output of {program.name}: {wrong}")
    if not images:
        raise InputError(f"{path}: output of {program.name}: no structures in it")
    for number, atoms in enumerate(images, start=1):
        yield _frame(atoms, path, f"{path}, structure {number}")


def _images(path: str, program: Program, text: str) -> list[Atoms]:
    from ase.io.formats import ioformats

    file = io.StringIO(text)
    file.name = path
    try:
        with warnings.catch_warnings():  # of its own readers, and of what a program warned of
            warnings.simplefilter("ignore")
            return list(ioformats[program.format].read(file, index=slice(None)))
    except MemoryError:
        raise
    except Exception as error:  # ASE's readers raise anything, from ParseError to IndexError
        raise InputError(f"{path}: ASE cannot read it as output of {program.name} "
                         f"({type(error).__name__}: {error})") from error  # fmt: skip


def _frame(atoms: Atoms, path: str, source: str) -> Frame:
    # Not atoms.get_forces(): it applies constraints, the potential needs the forces as computed.
    results: dict[str, Any] = dict(getattr(atoms.calc, "results", {}))
    free = getattr(atoms.calc, "energy_contributions", {}).get("free energy")  # GPAW
    if free is not None and "uncorrected_energy" not in atoms.calc.parameters:
        results["free_energy"] = free
    energy = results.get("free_energy")
    return make_frame(
        Found(
            source=source,
            group=name_group(path),
            positions=atoms.positions,
            atomic_numbers=atoms.numbers,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            energy=results.get("energy") if energy is None else energy,
            forces=results.get("forces"),
            stress=results.get("stress"),
        )
    )
