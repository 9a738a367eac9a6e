"""A short molecular dynamics of each ground state by each member: drift of the energy, distances between atoms.

The crystal at rest gets velocities of twice the temperature, half of which becomes potential energy, and moves freely
(NVE, velocity Verlet); after a while the velocities are scaled to the temperature once, and then it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from pyfit_gpu.errors import InputError
from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.parallel import Workers
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.ground_states import ground_states, supercell
from pyfit_gpu.physics.members import Members, highest_grade
from pyfit_gpu.physics.properties import Curve, Findings, Property
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.neighbors import find_neighbors

TEMPERATURE = 300.0  # K
_STEPS_BEFORE, _STEPS = 100, 400
_STEP = 1.0  # fs, for the mass of carbon; it grows with the root of the lightest mass
_LONGEST_STEP = 3.0  # fs
_SAMPLED = 10  # every so many steps
_TOO_HOT = 10.0  # times the temperature: the crystal explodes
_LEAST_ATOMS = 48  # in the cell
_RADIUS, _N_BINS = 6.0, 120  # Å, of the radial distribution: shorter than any cell, in which atoms see their own images
_DRIFT, _MEASURED = "energy-drift", "temperature"


@dataclass(frozen=True, eq=False)
class _Run:
    """One run; numbers are NaN after it exploded."""

    drift: float  # meV/atom/ps
    temperature: float  # K, the mean
    distribution: FloatArray  # (bins,)
    samples: list[Atoms]
    exploded: float | None  # fs, when it did


def dynamics(members: Members, solids: Sequence[Solid]) -> Findings:
    """Run each ground state, its members side by side."""
    stable = ground_states(solids)
    if not stable:
        return Findings.unknown(_DRIFT, "meV/atom/ps")
    found = Findings.empty()
    for solid in stable:
        volume = np.mean([state.volume for _, state in solid.known])
        length = float(np.cbrt(_LEAST_ATOMS * volume))
        starts = [(number, supercell(solid, state.atoms, length)) for number, state in solid.known]
        runs = Workers.shared(members.device).map(lambda start: _run(members, *start), starts)
        samples = members.evaluate([(k, run.samples) for k, run in enumerate(runs)], derivatives=False)
        make = partial(Property.of_members, grade=highest_grade(samples), note=_note(runs))
        properties = (
            make(_DRIFT, solid.phase, "meV/atom/ps", [run.drift for run in runs]),
            make(_MEASURED, solid.phase, "K", [run.temperature for run in runs]),
        )
        x = (np.arange(_N_BINS) + 0.5) * _RADIUS / _N_BINS
        y = tuple(tuple(run.distribution.tolist()) for run in runs)
        curve = Curve("radial-distribution", solid.phase, "distance (Å)", "g(r)", tuple(x.tolist()), y)
        found += Findings(properties, (curve,))
    return found


def _note(runs: Sequence[_Run]) -> str:
    times = [f"member {k + 1} after {run.exploded:.0f} fs" for k, run in enumerate(runs) if run.exploded is not None]
    return f"explodes at {TEMPERATURE:.0f} K: {', '.join(times)}" if times else f"NVE at {TEMPERATURE:.0f} K"


def _run(members: Members, number: int, atoms: Atoms) -> _Run:
    atoms.calc = PyfitCalculator(members.potentials[number], e_shift=members.shift.tolist())
    _set_in_motion(atoms, 2 * TEMPERATURE)
    step = min(_LONGEST_STEP, _STEP * float(np.sqrt(atoms.get_masses().min() / 12)))
    motion = VelocityVerlet(atoms, timestep=step * units.fs)
    samples: list[Atoms] = []
    energies, temperatures = [], []
    n_done = 0
    try:
        for n_done in range(0, _STEPS_BEFORE + _STEPS, _SAMPLED):
            if n_done == _STEPS_BEFORE:
                atoms.set_momenta(atoms.get_momenta() * np.sqrt(TEMPERATURE / atoms.get_temperature()))
            motion.run(_SAMPLED)
            temperature, energy = atoms.get_temperature(), atoms.get_total_energy()
            if not (temperature < _TOO_HOT * TEMPERATURE and np.isfinite(energy)):
                return _exploded((n_done + _SAMPLED) * step, samples)
            if n_done >= _STEPS_BEFORE:
                energies.append(energy)
                temperatures.append(temperature)
                samples.append(_without_calculator(atoms))
    except InputError:  # two atoms at one place, or nowhere
        return _exploded((n_done + _SAMPLED) * step, samples)
    times = np.arange(len(energies)) * _SAMPLED * step * 1e-3
    drift = float(np.polyfit(times, energies, 1)[0]) / len(atoms) * 1e3
    return _Run(drift, float(np.mean(temperatures)), _distribution(members, samples), samples, None)


def _set_in_motion(atoms: Atoms, temperature: float) -> None:
    """Draw velocities of a temperature, the same for the same atoms; the crystal as a whole stays where it is."""
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(1).normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())


def _exploded(time: float, samples: list[Atoms]) -> _Run:
    return _Run(np.nan, np.nan, np.full(_N_BINS, np.nan), samples, time)


def _without_calculator(atoms: Atoms) -> Atoms:
    copied = atoms.copy()
    copied.calc = None
    return copied


def _distribution(members: Members, samples: Sequence[Atoms]) -> FloatArray:
    """Pairs at a distance relative to those of atoms at random, g(r), the mean over samples."""
    distances = find_neighbors(members.structures(samples), _RADIUS).distances.cpu().numpy()
    counts, edges = np.histogram(distances, _N_BINS, (0.0, _RADIUS))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    n_atoms = len(samples[0])
    expected = len(samples) * n_atoms * n_atoms / samples[0].get_volume() * shells
    return np.asarray(counts / expected)
