"""Copper and nickel with labels of ASE's effective medium theory, for tests that put faults into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from pyfit_gpu.structures.frames import Frame


def labelled(atoms, group: str, number: int = 0, path: str = "cu.extxyz") -> Frame:
    atoms.calc = EMT()
    return Frame(
        positions=atoms.positions.copy(),
        cell=np.array(atoms.cell),
        pbc=np.array(atoms.pbc),
        atomic_numbers=atoms.numbers.astype(np.int64),
        group=group,
        source=f"{path}, structure {number}",
        energy=float(atoms.get_potential_energy()),
        forces=atoms.get_forces(),
        stress=atoms.get_stress(),
    )


def numbered(frames: list[Frame], path: str = "cu.extxyz") -> list[Frame]:
    """The same frames with the places of a file."""
    return [replace(frame, source=f"{path}, structure {k}") for k, frame in enumerate(frames, start=1)]


def good_frames(seed: int = 1) -> list[Frame]:
    """Seven volumes of a cubic cell (rows 0 to 6) and ten small displacements of its atoms (7 to 16)."""
    random = np.random.default_rng(seed)
    frames = []
    for scale in np.linspace(0.96, 1.04, 7):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        frames.append(labelled(atoms, "volumes"))
    for _ in range(10):
        atoms = bulk("Cu", a=3.62, cubic=True)  # none of those volumes
        atoms.positions += [[0.15, 0.1, 0.0], [0, 0, 0], [0, 0.05, -0.1], [0, 0, 0]]
        atoms.positions += random.normal(scale=0.02, size=(4, 3))
        frames.append(labelled(atoms, "displaced"))
    return numbered(frames)


def changed(frames: list[Frame], row: int, **labels: object) -> list[Frame]:
    """The same frames with another label of one of them."""
    return [replace(frame, **labels) if k == row else frame for k, frame in enumerate(frames)]  # type: ignore[arg-type]
