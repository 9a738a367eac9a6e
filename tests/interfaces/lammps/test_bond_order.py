"""Physically informed networks and bare bond-order potentials in LAMMPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bond_order_samples import CUTOFF, loops, make_bond_order
from lammps_samples import Runner, as_atoms, as_frame, calculated, coefficients, crystal, sample_uncertainty, thermo
from models.test_last_layer import make_bars
from sample_sets import make_potential

from pyfit_gpu.errors import Failure
from pyfit_gpu.formats.nn_dat import ending_of, save_potential
from pyfit_gpu.formats.opening import load_potentials, read_frames
from pyfit_gpu.formats.uncertainty_file import save_uncertainty
from pyfit_gpu.interfaces.lammps.comparison import compare
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.running import PairStyle, evaluate_frames
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Form, Potential
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]
ONE, TWO, THREE = ("Si",), ("C", "Si"), ("Si", "C", "Ge")
BAR = 1.6021765e6  # in one eV/Å^3, LAMMPS' own number


def make(
    elements: Sequence[str], form: Form, *, activation: int = 1, use_baseline: bool = True, **settings: object
) -> Potential:
    """A potential of made-up numbers; without a baseline the last layer's biases have them."""
    potential = make_bond_order(elements, form, **settings)
    networks = replace(potential.networks, activation=activation)
    if not use_baseline:
        *others, last = networks.biases
        networks = replace(networks, biases=(*others, last + potential.baseline))
    return replace(potential, networks=networks, use_baseline=use_baseline)


def save(potential: Potential, folder: Path, name: str = "potential") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}{ending_of(potential)}"
    save_potential(replace(potential, energy_shift=torch.zeros_like(potential.energy_shift)), file)
    return file


def save_members(folder: Path, n_members: int, elements: Sequence[str], **settings: object) -> list[Path]:
    """Files of potentials that differ in their networks alone, or in the baseline where there are none."""
    drawn = [make_bond_order(elements, seed=seed, **settings) for seed in range(n_members)]
    members = drawn if drawn[0].is_bare else [replace(drawn[0], networks=one.networks) for one in drawn]
    return [save(one, folder, f"{number}") for number, one in enumerate(members)]


@pytest.fixture(scope="module")
def frames_of(random_frame: MakeFrame, make_frame: MakeFrame) -> Callable[[Sequence[str]], list[Frame]]:
    """Crystals, a tiny skewed cell, a slab, a chain, a cluster, atoms alone or far apart, bonds that all is within."""

    def frames(elements: Sequence[str]) -> list[Frame]:
        flat = [[3.0, 0.0, 0.0], [9.1, 2.8, 0.0], [-5.0, 8.3, 3.1]]
        two = [elements[0], elements[-1]]
        whole = crystal((1, 1, 1), second=None)
        whole.set_chemical_symbols([elements[k % len(elements)] for k in range(len(whole))])
        slab = whole.copy()
        slab.pbc = [True, True, False]
        return [
            as_frame(whole),
            as_frame(slab),
            random_frame(3, 7, length=6.0, elements=elements),
            make_frame([[0.1, 0.2, 0.3]], flat, symbols=elements[-1:]),
            make_frame([[0.1, 0.2, 0.3], [1.6, 1.5, 2.0]], flat, pbc=[True, False, False], symbols=two),
            make_frame([[0.0, 0.0, 0.0], [0.0, 0.0, 2.4]], symbols=two),
            make_frame([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2 * CUTOFF], [0.0, 1.9, 0.1]], symbols=[*two, two[0]]),
            make_frame([[0.0, 0.0, 0.0], [0.0, 0.0, 30.0]], symbols=two),
        ]

    return frames


INFORMED = [
    (ONE, "squared", {"gi_mode": 0}),
    (ONE, "plain", {"gi_mode": 1}),
    (ONE, "plain", {"gi_mode": 2, "activation": 2}),
    (ONE, "squared", {"gi_mode": 4, "use_baseline": False}),
    (ONE, "squared", {"bare": True}),
    (TWO, "squared", {"gi_mode": 3}),
    (TWO, "plain", {"bare": True}),
    (THREE, "squared", {"gi_mode": 6, "cross_terms": 1, "triples": ((1, 1, 2),)}),
]
NAMES = [f"{' '.join(elements)}, {form}, {settings}" for elements, form, settings in INFORMED]


@pytest.mark.parametrize(
    ("elements", "form", "settings", "ranks"),
    [*((*case, 1) for case in INFORMED), (*INFORMED[2], 3), (*INFORMED[5], 3)],
    ids=[*NAMES, f"{NAMES[2]}, 3 ranks", f"{NAMES[5]}, 3 ranks"],
)
def test_same_as_the_package(
    frames_of: Callable[[Sequence[str]], list[Frame]],
    lammps: Installation,
    plugin: Path,
    elements: tuple[str, ...],
    form: Form,
    settings: dict[str, object],
    ranks: int,
    tmp_path: Path,
) -> None:
    """Energies of atoms, forces and stress; most structures have fewer atoms than ranks, or leave ranks without any."""
    file = save(make(elements, form, **settings), tmp_path / "potentials")
    pair = PairStyle.of(load_potentials(file), [file], plugin)
    frames = frames_of(elements)
    (tmp_path / "run").mkdir()
    for frame, found in zip(frames, evaluate_frames(lammps, frames, pair, tmp_path / "run", ranks=ranks), strict=True):
        atoms = calculated(as_atoms(frame), [file])
        scale = max(1.0, np.abs(atoms.get_forces()).max())
        np.testing.assert_allclose(found.atomic_energies, atoms.get_potential_energies(), rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=1e-12 * scale)
        if frame.volume:
            np.testing.assert_allclose(found.stress(frame.volume), atoms.get_stress(), rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("form", ["squared", "plain"])
@pytest.mark.parametrize("elements", [ONE, TWO])
def test_same_as_plain_loops(
    random_frame: MakeFrame, lammps: Installation, plugin: Path, elements: tuple[str, ...], form: Form, tmp_path: Path
) -> None:
    """Nothing of the package's energies is used: loops over bonds, neighbours and pairs of them."""
    potential = make_bond_order(elements, form, bare=form == "plain")
    file = save(potential, tmp_path)
    frame = random_frame(5, 6, length=6.0, elements=elements)
    pair = PairStyle.of(potential, [file], plugin)
    (tmp_path / "run").mkdir()
    (found,) = evaluate_frames(lammps, [frame], pair, tmp_path / "run")
    expected = loops(potential, frame)
    np.testing.assert_allclose(found.atomic_energies, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("elements", "form", "settings"), [INFORMED[2], INFORMED[5], INFORMED[6]], ids=[NAMES[2], NAMES[5], NAMES[6]]
)
def test_forces_are_differences_of_energies(
    lammps: Installation,
    plugin: Path,
    elements: tuple[str, ...],
    form: str,
    settings: dict[str, object],
    tmp_path: Path,
) -> None:
    """Differences of LAMMPS' own energies, of fourth order, for an atom moved in a crystal out of order."""
    file = save(make(elements, form, **settings), tmp_path)
    atoms = crystal((1, 1, 1))
    atoms.set_chemical_symbols([elements[k % len(elements)] for k in range(len(atoms))])
    step, moved = 1e-3, []
    for axis in range(3):
        for count in (-2, -1, 1, 2):
            there = atoms.copy()
            there.positions[3, axis] += count * step
            moved.append(as_frame(there))
    (tmp_path / "run").mkdir()
    pair = PairStyle.of(load_potentials(file), [file], plugin)
    found, *others = evaluate_frames(lammps, [as_frame(atoms), *moved], pair, tmp_path / "run")
    energies = np.array([one.energy for one in others]).reshape(3, 4)
    expected = -(energies @ np.array([1, -8, 8, -1])) / (12 * step)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.forces[3], expected, rtol=0, atol=2e-8 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_committee(run: Runner, ranks: int, tmp_path: Path) -> None:
    """Means, and spreads of energies and forces, on the steps that fix pair asks for."""
    atoms = crystal((2, 2, 2), second="C")
    files = save_members(tmp_path / "potentials", 3, ("Si", "C"))
    run(
        *run.setup(atoms, coefficients(files), style="pyfit forces_std yes"),
        "velocity all create 1000 7 loop geom",
        "fix 1 all nve",
        "timestep 0.0002",
        "fix spread all pair 3 pyfit energy_std 1 fx_std 1 fy_std 1 fz_std 1",
        "compute energy all pe/atom",
        "dump 1 all custom 3 dump id f_spread[*] c_energy fx fy fz x y z",
        "dump_modify 1 sort id format float %.17g",
        "run 3",
        ranks=ranks,
    )
    for frame in run.dump():
        there = atoms.copy()
        there.positions = frame[:, 9:12]
        alone = [calculated(there, [file]) for file in files]
        energies = np.array([one.get_potential_energies() for one in alone])
        forces = np.array([one.get_forces() for one in alone])
        for columns, expected in (
            (1, energies.std(0, ddof=1)), (slice(2, 5), forces.std(0, ddof=1)),
            (5, energies.mean(0)), (slice(6, 9), forces.mean(0)),
        ):  # fmt: skip
            np.testing.assert_allclose(frame[:, columns], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("modify", ["", "pair_modify nofdotr"], ids=["by forces", "by pairs"])
def test_virials_of_atoms_add_up(run: Runner, modify: str, tmp_path: Path) -> None:
    atoms = crystal((2, 2, 2), second="C")
    files = save_members(tmp_path / "potentials", 1, ("Si", "C"))
    output = run(
        *run.setup(atoms, coefficients(files)),
        *([modify] if modify else []),
        "compute virial all centroid/stress/atom NULL virial",
        "compute sum all reduce sum c_virial[1] c_virial[2] c_virial[3] c_virial[4] c_virial[5] c_virial[6]",
        "thermo_style custom pxx pyy pzz pxy pxz pyz c_sum[*]",
        "thermo_modify format float %.17g",
        "run 0",
        ranks=2,
    )
    row = thermo(output)[0]
    stress = calculated(atoms, files).get_stress()[[0, 1, 2, 5, 4, 3]]
    np.testing.assert_allclose(-row[:6] / BAR, stress, rtol=0, atol=1e-12)
    np.testing.assert_allclose(row[6:] / BAR / atoms.get_volume(), stress, rtol=0, atol=1e-12)


def test_energy_is_kept(run: Runner, tmp_path: Path) -> None:
    """Along a run whose neighbour lists are made anew."""
    files = save_members(tmp_path / "potentials", 1, ONE, gi_mode=2, form="plain")
    output = run(
        *run.setup(crystal((2, 2, 2)), coefficients(files, "Si")),
        "velocity all create 600 7 loop geom",
        "fix 1 all nve",
        "timestep 0.0002",
        "neighbor 0.3 bin",
        "thermo_style custom step temp etotal ke",
        "thermo 50",
        "run 300",
        ranks=2,
    )
    assert int(output.split("Neighbor list builds =")[1].split()[0]) > 0
    rows = thermo(output)
    assert np.ptp(rows[:, 2]) < 1e-3 * rows[:, 3].mean()


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("n_members", [1, 2])
def test_grades(lammps: Installation, plugin: Path, bare: bool, n_members: int, tmp_path: Path) -> None:
    """Grades are of the features, whatever the outputs are, and whether there is a network; error bars are skipped."""
    files = save_members(tmp_path, n_members, TWO, bare=bare)
    potential = load_potentials(files)
    atoms = crystal((2, 2, 2), second="C")
    uncertainty = sample_uncertainty(atoms, potential, n_clusters=[3, 4])
    if n_members == 1:
        uncertainty = replace(uncertainty, error_bars=make_bars(n_last_parameters(potential)))
    save_uncertainty(uncertainty, tmp_path / "u.txt")
    assert (b"begin error-bars" in (tmp_path / "u.txt").read_bytes()) == (n_members == 1)
    pair = PairStyle.of(potential, files, plugin, tmp_path / "u.txt")
    found = compare(lammps, pair, potential, [as_frame(atoms)], uncertainty=uncertainty)
    assert found.differences[-1].name == "grade"
    assert found.differences[-1].magnitude > 0.1
    assert found.is_small


def test_grades_of_another_baseline(run: Runner, tmp_path: Path) -> None:
    """Networks that are equal beside a baseline that is not are another potential."""
    (file,) = save_members(tmp_path, 1, ONE)
    other = replace(load_potentials(file), bond_order_parameters=(9.0, 4.7, 4.3, 1.45, 0.12, 0.8, 0.9, 0.85))
    save_uncertainty(sample_uncertainty(crystal(), other, n_clusters=[4]), tmp_path / "u.txt")
    with pytest.raises(Failure, match=r"u\.txt: belongs to another potential: expected the checksum"):
        run(*run.setup(crystal(), f"* * {file} Si uncertainty u.txt"))


def test_ghosts_as_far_as_bonds_are_screened(run: Runner, tmp_path: Path) -> None:
    """Features of mode 5 end at rc, screening atoms are 1.5 times as far; a straight network needs rc alone."""
    straight = tmp_path / "straight.nn.dat"
    save_potential(make_potential(gi_mode=5, cutoff=CUTOFF), straight)
    for file, expected in ((save(make_bond_order(), tmp_path), 1.5 * CUTOFF), (straight, CUTOFF)):
        start = run.setup(crystal((3, 3, 3)), f"* * {file} Si")
        output = run(*start, "neighbor 0.25 bin", "run 0")
        assert f"master list distance cutoff = {expected + 0.25:g}\n" in output
        assert f"ghost atom cutoff = {expected + 0.25:g}\n" in output


@pytest.mark.parametrize(("place", "value", "named"), [(6, -500.0, "a -500, "), (0, 2000.0, "A 2000, ")])
def test_parameters_that_make_no_sense(run: Runner, place: int, value: float, named: str, tmp_path: Path) -> None:
    """A strength below zero makes a root of a number below zero; an exponent beyond all numbers makes no energy."""
    potential = make_bond_order(form="plain", bare=True)
    numbers = list(potential.bond_order_parameters)
    numbers[place] = value
    file = save(replace(potential, bond_order_parameters=tuple(numbers)), tmp_path)
    message = rf"expected bond-order parameters that make sense, found an energy of -?(nan|inf) eV for .*{named}"
    with pytest.raises(Failure, match=message):
        run(*run.setup(crystal(), f"* * {file} Si"), "run 0")


def test_members_that_differ(run: Runner, tmp_path: Path) -> None:
    """Forms, kinds and baselines do not mix."""
    first = make_bond_order()
    other = replace(first, bond_order_parameters=tuple(2 * x for x in first.bond_order_parameters))
    files = {
        name: save(potential, tmp_path, name)
        for name, potential in (
            ("first", first), ("plain", make_bond_order(form="plain")), ("bare", make_bond_order(bare=True)),
            ("other", other), ("none", replace(first, use_baseline=False)),
            ("straight", make_potential(gi_mode=5, cutoff=CUTOFF)),
        )
    }  # fmt: skip
    informed = r"expected a physically informed network \(squared form\), found "
    for name, message in (
        ("plain", informed + r"a physically informed network \(plain form\)"),
        ("bare", informed + r"a bare bond-order potential \(squared form\)"),
        ("straight", informed + "a straight network"),
        ("other", r"baseline: expected 8\.8\d+ .*, found 17\.6\d+ "),
        ("none", r"baseline: expected 8\.8\d+ .*, found none"),
    ):
        with pytest.raises(Failure, match=rf"{name}\.\S+ cannot be a member beside \S+first\.nn\.dat: {message}"):
            run(*run.setup(crystal(), f"* * {files['first']} {files[name]} Si"))


def test_published_aluminium(lammps: Installation, plugin: Path, reference_data: Path, tmp_path: Path) -> None:
    """The published potential: crystals whose positions have all their digits in the file, and forces."""
    folder = reference_data / "pinn_published"
    file, known = folder / "Al_2020.pinn", np.load(folder / "aluminium.npz")
    frames = list(read_frames(str(folder / "aluminium.extxyz")))
    found = evaluate_frames(lammps, frames, PairStyle.of(load_potentials(file), [file], plugin), tmp_path)
    energies = np.array([one.energy / len(one.forces) for one in found])
    at_rest = [k for k, one in enumerate(frames) if one.n_atoms == 1]
    assert len(at_rest) > 5
    np.testing.assert_allclose(energies[at_rest], known["energy_per_atom"][at_rest], rtol=0, atol=1e-10)
    forces = np.concatenate([found[k].forces for k in known["force_structures"]])
    np.testing.assert_allclose(forces, known["forces"], rtol=0, atol=1e-7)
