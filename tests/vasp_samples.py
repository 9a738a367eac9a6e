"""Made-up VASP runs of two or more ionic steps, written as OUTCAR, vasprun.xml and ML_AB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

REACHED = "aborting loop because EDIFF is reached"
UNREACHED = "aborting loop EDIFF was not reached (unconverged)"
ENDING = " General timing and accounting informations for this job:\n   Total CPU time used (sec):  1.0\n"
RULE = "-" * 40


@dataclass(frozen=True)
class Ionic:
    """One ionic step of Si2 or of what a `Run` says; enough of it to be told from the others."""

    energies: tuple[float, ...] = (-9.5, -9.999, -9.9999999, -10.0)  # eV, of the electronic steps
    shift: float = 0.0  # Å along x, of the second atom
    verdict: str = REACHED
    kilobars: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)  # xx yy zz xy yz zx
    final: float | None = None  # eV, if not the last of the energies


@dataclass(frozen=True)
class Run:
    """A run of VASP."""

    steps: tuple[Ionic, ...] = (Ionic(), Ionic(shift=0.1))
    species: tuple[tuple[str, int], ...] = (("Si", 2),)
    nelm: int | None = 60
    ediff: float | None = 1e-6
    settings: dict[str, str] = field(default_factory=dict)  # of <parameters>, or lines of the OUTCAR
    cell: tuple[float, float, float] = (5.0, 6.0, 7.0)
    ended: bool = True

    @property
    def n_atoms(self) -> int:
        return sum(count for _, count in self.species)

    def positions(self, step: Ionic) -> np.ndarray:
        """(n, 3) Å."""
        atoms = np.arange(self.n_atoms)[:, None]
        return atoms * [0.5, 0.25, 0.125] + (atoms == 1) * [step.shift, 0.0, 0.0]

    def forces(self, step: Ionic) -> np.ndarray:
        """(n, 3) eV/Å."""
        return np.where(np.arange(self.n_atoms)[:, None] % 2, -1.0, 1.0) * [0.1, 0.2, 0.3 + step.shift]

    def changed(self, **changes: object) -> Run:
        return replace(self, **changes)  # type: ignore[arg-type]


def outcar(run: Run, head: str | None = None) -> str:
    """Text of an OUTCAR."""
    text = outcar_head(run) if head is None else head
    text += "".join(outcar_step(run, step, number) for number, step in enumerate(run.steps, start=1))
    return text + (ENDING if run.ended else "")


def outcar_head(run: Run) -> str:
    lines = [" vasp.6.3.0 20Jan22 (build Jan 20 2022) complex", " executed on   LinuxIFC date 2024.01.01  00:00:00"]
    lines += [f" POTCAR:    PAW_PBE {symbol} 05Jan2001" for symbol, _ in run.species] * 2
    for symbol, _ in run.species:
        lines += [f"   VRHFIN ={symbol.split('_')[0]}: s2p2", f"   TITEL  = PAW_PBE {symbol} 05Jan2001"]
    lines.append(f"   number of dos      NEDOS =    301   number of ions     NIONS = {run.n_atoms:6d}")
    counts = [f"{count:4d}" for _, count in run.species]
    lines.append("   ions per type =            " + "".join(counts[:10]))
    lines += ["                              " + "".join(counts[k : k + 10]) for k in range(10, len(counts), 10)]
    if run.nelm is not None:
        lines.append(f"   NELM   =   {run.nelm:4d};   NELMIN=  2; NELMDL= -5     # of ELM steps")
    if run.ediff is not None:
        lines.append(f"   EDIFF  = {run.ediff:.1E}   stopping-criterion for ELM")
    lines += [f"   {name} = {value}    setting" for name, value in run.settings.items()]
    return "\n".join(lines) + "\n"


def iteration(ionic: int, electronic: int) -> str:
    return f"{RULE} Iteration {ionic:6d}({electronic:4d})  {RULE}\n"


def outcar_step(run: Run, step: Ionic, number: int) -> str:
    text = ""
    for count, energy in enumerate(step.energies, start=1):
        change = energy - step.energies[count - 2] if count > 1 else energy
        text += iteration(number, count)
        text += f" total energy-change (2. order) :{change:14.7E}  (-0.1E-02)\n"
        text += f"  free energy    TOTEN  =    {energy:18.8f} eV\n"
    if step.verdict:
        text += f"------------------------ {step.verdict} ----------------------------------------\n"
    text += "  FORCE on cell =-STRESS in cart. coord.  units (eV):\n"
    text += "  in kB   " + "".join(f"{value:12.5f}" for value in step.kilobars) + "\n"
    text += "      direct lattice vectors                 reciprocal lattice vectors\n"
    for row in np.diag(run.cell):
        text += "    " + "".join(f"{value:13.9f}" for value in (*row, 0.1, 0.0, 0.0)) + "\n"
    text += " POSITION                                       TOTAL-FORCE (eV/Angst)\n " + "-" * 83 + "\n"
    for x, f in zip(run.positions(step), run.forces(step), strict=True):
        text += "".join(f"{value:13.5f}" for value in x) + "    " + "".join(f"{value:14.6f}" for value in f) + "\n"
    text += " " + "-" * 83 + "\n"
    return text + final_energy(step.energies[-1] if step.final is None else step.final)


def final_energy(energy: float, title: str = "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)") -> str:
    ml = "ML " if "ML" in title else "  "
    return (
        f"{title}\n  {RULE}\n  free  energy {ml}TOTEN  = {energy:18.8f} eV\n\n"
        f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}\n"
    )


def learned_step(run: Run, energy: float) -> str:
    """A step of a force field in an OUTCAR, as VASP 6.3 writes it before it decides whether DFT is needed."""
    rows = "".join("  9.0" * 6 + "\n" for _ in range(run.n_atoms))
    return (
        "  ML FORCE on cell =-STRESS in cart. coord. units (eV/cell)\n  in kB " + "  9.00000" * 6 + "\n"
        "      direct lattice vectors                 reciprocal lattice vectors\n"
        + "  9.0 0.0 0.0 0.1 0.0 0.0\n" * 3
        + f"  POSITION                                       TOTAL-FORCE (eV/Angst) (ML)\n {RULE}\n{rows} {RULE}\n"
        + final_energy(energy, "  ML FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)")
    )


def vasprun(run: Run, titles: Sequence[str] = ()) -> str:
    """Text of a vasprun.xml."""
    atoms = [(symbol, index) for index, (symbol, count) in enumerate(run.species, start=1) for _ in range(count)]
    rows = "".join(f"<rc><c>{symbol:2}</c><c>{index:4d}</c></rc>\n" for symbol, index in atoms)
    types = "".join(f"<rc><c>  1</c><c>Q </c><c> 1.0</c><c> 4.0</c><c> {title}  </c></rc>\n" for title in titles)
    electronic = "" if run.nelm is None else f'<i type="int" name="NELM">{run.nelm:6d}</i>\n'
    ediff = "" if run.ediff is None else f'<i name="EDIFF">{run.ediff:16.8f}</i>\n'
    settings = "".join(f'<i name="{name}">  {value} </i>\n' for name, value in run.settings.items())
    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<incar>\n<i name="ALGO">All</i>\n</incar>\n'
        f'<parameters>\n<separator name="electronic" >\n{ediff}'
        f'<separator name="electronic convergence" >\n{electronic}</separator>\n</separator>\n'
        f'<separator name="ionic" >\n{settings}</separator>\n</parameters>\n'
        f'<atominfo>\n<atoms> {run.n_atoms} </atoms>\n<types> {len(run.species)} </types>\n<array name="atoms" >\n'
        f'<set>\n{rows}</set>\n</array>\n<array name="atomtypes" >\n<set>\n{types}</set>\n</array>\n</atominfo>\n'
    )
    text += "".join(calculation(run, step) for step in run.steps)
    return text + ("</modeling>\n" if run.ended else "")


def scstep(energy: float, parts: str = "") -> str:
    numbers = "".join(f'<i name="{name}"> {energy:.8f} </i>' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    return f"<scstep>\n<energy>\n{parts}{numbers}\n</energy>\n</scstep>\n"


def structure(run: Run, step: Ionic) -> str:
    return (
        f"<structure>\n<crystal>\n{varray('basis', np.diag(run.cell))}</crystal>\n"
        f"{varray('positions', run.positions(step) / run.cell)}</structure>\n"
    )


def calculation(run: Run, step: Ionic) -> str:
    xx, yy, zz, xy, yz, zx = step.kilobars
    energy = step.energies[-1] if step.final is None else step.final
    return (
        f"<calculation>\n{''.join(map(scstep, step.energies))}{structure(run, step)}"
        f"{varray('forces', run.forces(step))}{varray('stress', [[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])}"
        f'<energy>\n<i name="e_fr_energy"> {energy:.8f} </i>\n</energy>\n'
        "<eigenvalues><array><set><r> 1.0 1.0 </r></set></array></eigenvalues>\n</calculation>\n"
    )


def varray(name: str, rows: object) -> str:
    text = "".join("<v>" + "".join(f"{value:17.8f}" for value in row) + " </v>\n" for row in np.asarray(rows))
    return f'<varray name="{name}" >\n{text}</varray>\n'


def ml_ab(run: Run, name: str = "two silicon") -> str:
    """Text of an ML_AB."""
    star, equal, dash = "*" * 50, "=" * 50, "-" * 50
    text = f" 1.0 Version\n{star}\n     The number of configurations\n{dash}\n{len(run.steps):11d}\n{star}\n"
    text += f"     The atom types in the data file\n{dash}\n     Si\n{star}\n"
    text += f"     Basis set for Si\n{dash}\n      1      1\n"
    for number, step in enumerate(run.steps, start=1):
        xx, yy, zz, xy, yz, zx = step.kilobars
        sections = {
            "System name": f"     {name}",
            "The number of atom types": f"{len(run.species):8d}",
            "The number of atoms": f"{run.n_atoms:10d}",
            "Atom types and atom numbers": "\n".join(f"     {symbol} {count:6d}" for symbol, count in run.species),
            "CTIFOR": "   2.0E-003",
            "Primitive lattice vectors (ang.)": fortran(np.diag(run.cell)),
            "Atomic positions (ang.)": fortran(run.positions(step)),
            "Total energy (eV)": fortran([[step.energies[-1]]]),
            "Forces (eV ang.^-1)": fortran(run.forces(step)),
        }
        text += f"{star}\n     Configuration num. {number:6d}\n"
        for title, lines in sections.items():
            text += f"{star if title.startswith('Atom types') else equal}\n     {title}\n{dash}\n{lines}\n"
        text += f"{equal}\n     Stress (kbar)\n{dash}\n     XX YY ZZ\n{dash}\n{fortran([[xx, yy, zz]])}\n"
        text += f"{dash}\n     XY YZ ZX\n{dash}\n{fortran([[xy, yz, zx]])}\n"
    return text


def fortran(rows: object) -> str:
    return "\n".join("".join(f"  {value:.15E}".replace("E+0", "E+00") for value in row) for row in np.asarray(rows))
