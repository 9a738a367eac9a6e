"""Small made-up data of other programs: two atoms of silicon in a cubic cell of 5 Å, the second at (2, 1, 1) Å."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ENERGY = -10.5  # eV
FORCE = 0.25  # eV/Å along x on the first atom, against it on the second
VIRIAL = np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]])  # eV
STRESS = -np.array([1.0, 2.0, 3.0, 0.4, 0.5, 0.6]) / 125  # eV/Å^3, xx yy zz yz xz xy

POSITIONS = np.array([[0.0, 0.0, 0.0], [2.0, 1.0, 1.0]])
FORCES = np.array([[FORCE, 0.0, 0.0], [-FORCE, 0.0, 0.0]])

RUNNER = """\
begin
comment made up
lattice 5.0 0.0 0.0
lattice 0.0 5.0 0.0
lattice 0.0 0.0 5.0
atom 0.0 0.0 0.0 Si 0.0 0.0 0.25 0.0 0.0
atom 2.0 1.0 1.0 Si 0.0 0.0 -0.25 0.0 0.0
energy -10.5
charge 0.0
end
"""

MTP = """\
BEGIN_CFG
 Size
    2
 Supercell
    5.0 0.0 0.0
    0.0 5.0 0.0
    0.0 0.0 5.0
 AtomData:  id type cartes_x cartes_y cartes_z fx fy fz
    1 0 0.0 0.0 0.0 0.25 0.0 0.0
    2 0 2.0 1.0 1.0 -0.25 0.0 0.0
 Energy
    -10.5
 PlusStress:  xx yy zz yz xz xy
    1.0 2.0 3.0 0.4 0.5 0.6
 Feature   EFS_by  VASP
END_CFG
"""

QBOX = """\
<?xml version="1.0" encoding="UTF-8"?>
<fpmd:simulation xmlns:fpmd="http://www.quantum-simulation.org/ns/fpmd/fpmd-1.0">
 <release> 1.78.4 host </release>
[qbox] <cmd>run 0 50</cmd>
<species name="silicon">
 <symbol>Si</symbol>
 <atomic_number>14</atomic_number>
 <mass>28.09</mass>
</species>
<iteration count="1">
  total_electronic_charge: 8.00000000
 <stress_tensor unit="atomic_units">
   <sigma_eks_xx> 9.0 </sigma_eks_xx>
 </stress_tensor>
  <etotal>      -7.90000000 </etotal>
<atomset>
<unit_cell
    a="10.0 0.0 0.0"
    b="0.0 10.0 0.0"
    c="0.0 0.0 10.0" />
  <atom name="Si1" species="silicon">
    <position> 0.0 0.0 0.0 </position><velocity> 0 0 0 </velocity><force> 0.01 0.0 0.0 </force>
  </atom>
  <atom name="Si2" species="silicon">
    <position> 4.0 2.0 2.0 </position><velocity> 0 0 0 </velocity><force> -0.01 0.0 0.0 </force>
  </atom>
</atomset>
 <stress_tensor unit="GPa">
   <sigma_eks_xx> 1.0 </sigma_eks_xx><sigma_eks_yy> 2.0 </sigma_eks_yy><sigma_eks_zz> 3.0 </sigma_eks_zz>
   <sigma_eks_xy> 0.6 </sigma_eks_xy><sigma_eks_yz> 0.4 </sigma_eks_yz><sigma_eks_xz> 0.5 </sigma_eks_xz>
   <sigma_xx> 7.0 </sigma_xx>
 </stress_tensor>
</iteration>
</fpmd:simulation>
"""


def fitsnap(**changes: Any) -> dict[str, Any]:
    """The object in a file of FitSNAP, with other entries of its only structure."""
    structure = {
        "AtomTypes": ["Si", "Si"],
        "NumAtoms": 2,
        "Positions": POSITIONS.tolist(),
        "Lattice": (5.0 * np.eye(3)).tolist(),
        "Energy": ENERGY,
        "Forces": FORCES.tolist(),
        "Stress": (VIRIAL / 125 * 1.602176634e6).tolist(),  # bar
        **changes,
    }
    styles = {"EnergyStyle": "electronvolt", "StressStyle": "bar", "PositionsStyle": "angstrom"}
    return {"Dataset": {"Data": [structure], **styles}}


def pymatgen(**changes: Any) -> dict[str, Any]:
    """A record as in mlearn's data, with other entries."""
    sites = [{"species": [{"element": "Si", "occu": 1}], "xyz": xyz} for xyz in POSITIONS.tolist()]
    return {
        "outputs": {"energy": ENERGY, "forces": FORCES.tolist(), "virial_stress": [10.0, 20.0, 30.0, 6.0, 5.0, 5.0]},
        "group": "Elastic",
        "structure": {
            "@class": "Structure",
            "lattice": {"matrix": (5.0 * np.eye(3)).tolist()},
            "sites": sites,
        },
        **changes,
    }


def write_fitsnap(path: Path, content: dict[str, Any] | None = None) -> None:
    path.write_text(f"# made up\n{json.dumps(content or fitsnap())}\n")


def write_pymatgen(path: Path, *records: dict[str, Any]) -> None:
    path.write_text(json.dumps(records or [pymatgen()]))


def write_deepmd(folder: Path, count: int = 1, dtype: str = "float64") -> None:
    """A folder with equal structures in one set."""
    part = folder / "set.000"
    part.mkdir(parents=True)
    (folder / "type.raw").write_text("0\n0\n")
    (folder / "type_map.raw").write_text("Si\n")
    arrays = {
        "coord": POSITIONS.ravel(),
        "box": (5.0 * np.eye(3)).ravel(),
        "force": FORCES.ravel(),
        "virial": VIRIAL.ravel(),
    }
    for name, values in arrays.items():
        np.save(part / f"{name}.npy", np.tile(values, (count, 1)).astype(dtype))
    np.save(part / "energy.npy", np.full(count, ENERGY, dtype))
