"""The folder for LAMMPS: what is in it, that it runs as it stands, and that a wrong result is noticed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from lammps_samples import crystal, sample_uncertainty
from sample_sets import make_potential

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.formats.opening import find_uncertainty, load_potentials, read_frames
from pyfit_gpu.formats.shared_network import SharedNetwork, input_of_nothing
from pyfit_gpu.interfaces.lammps import export as export_module
from pyfit_gpu.interfaces.lammps.cells import Box
from pyfit_gpu.interfaces.lammps.export import export_potential
from pyfit_gpu.interfaces.lammps.potential_files import member_names, save_members, stem_of
from pyfit_gpu.interfaces.lammps.running import run_lammps
from pyfit_gpu.interfaces.lammps.start_structures import copies_for, simple_crystal
from pyfit_gpu.models.networks import count_parameters, draw_parameters
from pyfit_gpu.models.potential import join_members
from pyfit_gpu.models.prediction import evaluate
from pyfit_gpu.structures.batch import Structures


@pytest.fixture(scope="session")
def potential(own_data):
    return load_potentials(own_data / "two_elements.nn.dat")


@pytest.fixture(scope="session")
def frames(own_data):
    return list(read_frames(own_data / "two_elements.extxyz"))


def test_a_folder_that_runs(lammps, plugin, potential, frames, tmp_path):
    out = tmp_path / "a folder"
    found = export_potential(potential, out, lammps, plugin, stem="sic", frames=frames)
    names = {"sic.nn.dat", "structure.data", "in.pyfit", "verification.txt"}
    assert {path.name for path in out.iterdir()} == {path.name for path in found.files} == names
    assert found.comparison.n_structures == len(frames)
    text = (out / "verification.txt").read_text()
    assert "the same" in text
    assert f"{len(frames)} structure(s)" in text
    assert torch.equal(load_potentials(out / "sic.nn.dat").networks.flat(), potential.networks.flat())
    output = run_lammps(lammps, f"plugin load {plugin}\nvariable steps index 20\ninclude in.pyfit\n", out)
    rows = re.findall(r"^ +\d+(?: +[-+.\de]+){6} *$", output, re.MULTILINE)
    energies = [float(row.split()[5]) for row in rows]
    assert len(energies) == 3  # steps 0, 10 and 20
    assert max(energies) - min(energies) < 1e-3 * abs(energies[0])


def test_the_start_is_at_rest(lammps, plugin, potential, frames, tmp_path):
    squeezed = replace(frames[0], cell=0.9 * frames[0].cell, positions=0.9 * frames[0].positions, source="squeezed")
    only_one = frames[0].atomic_numbers == frames[0].atomic_numbers[0]
    simple = replace(
        frames[0], positions=frames[0].positions[only_one], atomic_numbers=frames[0].atomic_numbers[only_one]
    )
    few = [squeezed, replace(simple, source="one element"), *frames[:3]]
    energies = (evaluate(potential, Structures.from_frames(few)) / torch.tensor([one.n_atoms for one in few])).tolist()
    energies[1] = np.inf
    export_potential(potential, tmp_path / "out", lammps, plugin, frames=few)
    first_line = (tmp_path / "out" / "structure.data").read_text().splitlines()[0]
    assert few[int(np.argmin(energies))].source in first_line


def test_a_committee(lammps, plugin, potential, frames, tmp_path):
    members = potential.random_members(range(3), seed=1)
    found = export_potential(members, tmp_path / "out", lammps, plugin, frames=frames[:4])
    names = [f"potential.m{k:03d}.nn.dat" for k in range(3)]
    assert [path.name for path in found.files[:3]] == names
    assert f"pair_coeff * * {' '.join(names)} Si C\n" in (tmp_path / "out" / "in.pyfit").read_text()
    assert found.comparison.is_small


@pytest.mark.parametrize("n_members", [1, 2])
def test_grades_go_along(n_members, lammps, plugin, potential, frames, tmp_path):
    """The uncertainty file is beside the first potential's, where the package finds it, and the grades are compared."""
    members = potential if n_members == 1 else potential.random_members(range(2), seed=1)
    uncertainty = sample_uncertainty(crystal(second="C"), members, n_clusters=[2, 2])
    out = tmp_path / "out"
    found = export_potential(members, out, lammps, plugin, frames=frames[:4], uncertainty=uncertainty)
    names = [path.name for path in found.files[:n_members]]
    file = out / names[0].replace(".nn.dat", ".uncertainty.txt")
    assert found.files[n_members] == file
    assert find_uncertainty([out / name for name in names], members) is not None
    assert f"pair_coeff * * {' '.join(names)} Si C uncertainty {file.name}\n" in (out / "in.pyfit").read_text()
    grade = found.comparison.differences[-1]
    assert (grade.name, grade.is_small) == ("grade", True)
    assert grade.magnitude > 0.1
    assert "\ngrade  " in (out / "verification.txt").read_text()


def test_a_wrong_grade_is_noticed(lammps, plugin, potential, frames, tmp_path, monkeypatch):
    """LAMMPS gets a centre that is off by a little."""
    uncertainty = sample_uncertainty(crystal(second="C"), potential, n_clusters=[2, 2])
    moved = replace(uncertainty, grade=replace(uncertainty.grade, centers=uncertainty.grade.centers + 1e-3))
    monkeypatch.setattr(export_module, "load_uncertainty", lambda path: uncertainty)
    with pytest.raises(Failure, match=r"differ by more than rounding: grade by"):
        export_potential(potential, tmp_path / "out", lammps, plugin, frames=frames[:4], uncertainty=moved)


@pytest.mark.parametrize("form", ["squared", "plain"])
@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize("bare", [False, True])
def test_informed_potentials(form, n_members, bare, lammps, plugin, frames, tmp_path):
    """In files of their form; members without networks differ in their baselines."""
    elements = ("Si", "C") if form == "squared" or bare else ("Si",)
    potential = make_bond_order(elements, form, bare=bare)
    if n_members > 1:
        potential = potential.random_members(range(n_members), seed=1)
    few = [frame for frame in frames if len(elements) > 1 or (frame.atomic_numbers == 14).all()][:3]
    found = export_potential(potential, tmp_path / "out", lammps, plugin, frames=few)
    ending = ".pinn" if form == "plain" else ".nn.dat"
    assert [path.name.endswith(ending) for path in found.files[:n_members]] == [True] * n_members
    assert found.comparison.is_small


def test_a_network_for_all_elements(lammps, plugin, frames, tmp_path):
    """Kind I, whose constant inputs are moved into biases and back."""
    shared = make_bond_order(("Si", "C"), "plain", gi_mode=2)
    constant = input_of_nothing(shared.descriptor)
    layout = SharedNetwork(2, shared.networks.layer_sizes, n_inputs=2, n_slices=2, constant=constant)
    flat = draw_parameters(count_parameters(layout.file_sizes), 0.4, seed=1)
    shared = replace(shared, networks=shared.networks.with_flat(layout.split(flat)))
    found = export_potential(shared, tmp_path / "out", lammps, plugin, frames=frames[:3])
    assert found.files[0].name == "potential.pinn"
    assert found.comparison.is_small


def test_without_structures(lammps, plugin, potential, tmp_path):
    found = export_potential(potential, tmp_path / "out", lammps, plugin)
    assert found.comparison.n_structures == 1
    assert found.comparison.differences[1].magnitude > 1e-6  # there are forces to compare
    assert "Si C on a cubic lattice" in (tmp_path / "out" / "structure.data").read_text()


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_open_boundaries(pbc, lammps, plugin, potential, make_frame, tmp_path):
    cell = np.diag([4.0, 4.2, 20.0])
    frame = make_frame([[0, 0, 5.0], [1.5, 1.4, 6.5]], cell, pbc=pbc, symbols=["Si", "C"])
    assert export_potential(potential, tmp_path / "out", lammps, plugin, frames=[frame]).comparison.is_small
    letters = " ".join("p" if periodic else "s" for periodic in pbc)
    assert f"boundary {letters}\n" in (tmp_path / "out" / "in.pyfit").read_text()


def test_what_is_there_stays(lammps, plugin, potential, frames, tmp_path):
    (tmp_path / "in.pyfit").write_text("mine")
    with pytest.raises(InputError, match=r"in\.pyfit: exists already \(overwrite=True"):
        export_potential(potential, tmp_path, lammps, plugin, frames=frames)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pyfit"]
    export_potential(potential, tmp_path, lammps, plugin, frames=frames[:2], overwrite=True)
    assert (tmp_path / "in.pyfit").read_text() != "mine"


def test_folders_that_cannot_be(lammps, plugin, potential, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        export_potential(potential, tmp_path / "file", lammps, plugin)
    with pytest.raises(InputError, match="none/out: cannot write: No such file"):
        export_potential(potential, tmp_path / "none" / "out", lammps, plugin)


def test_unknown_element(lammps, plugin, potential, make_frame, tmp_path):
    with pytest.raises(InputError, match="atom 1: expected an element of the potential"):
        export_potential(potential, tmp_path / "out", lammps, plugin, frames=[make_frame([[0, 0, 0]], symbols=["Ge"])])
    assert not list((tmp_path / "out").iterdir())


def test_a_wrong_result_is_noticed(lammps, plugin, potential, frames, tmp_path, monkeypatch):
    """LAMMPS gets a potential that is off by a little."""

    def changed(potential, folder, names):
        weights = potential.networks.flat() * (1 + 1e-6)
        networks = type(potential.networks).from_flat(
            weights,
            potential.networks.layer_sizes,
            n_elements=potential.descriptor.n_elements,
            activation=potential.networks.activation,
        )
        return save_members(replace(potential, networks=networks), folder, names)

    monkeypatch.setattr(export_module, "save_members", changed)
    with pytest.raises(Failure, match="parameters that were read again differ"):
        export_potential(potential, tmp_path / "out", lammps, plugin, frames=frames)
    monkeypatch.setattr(export_module, "_reread", lambda potential, files: potential)
    with pytest.raises(Failure, match=r"verification\.txt: LAMMPS and predict differ by more than rounding: energy by"):
        export_potential(potential, tmp_path / "out", lammps, plugin, frames=frames, overwrite=True)
    assert "DIFFERENT" in (tmp_path / "out" / "verification.txt").read_text()


@pytest.mark.parametrize("elements", [("Si",), ("Mg",), ("O",), ("Ga",), ("Si", "C"), ("Ti", "Ni", "Cu")])
def test_simple_crystals(elements):
    frame = simple_crystal(elements)
    counts = frame.element_counts
    assert len(counts) == len(elements)
    assert len(set(counts.values())) == 1
    box = Box.of(frame)
    box = box.repeated(copies_for(box, 5.0))
    heights = np.linalg.det(box.cell) / np.linalg.norm(np.cross(box.cell[[1, 2, 0]], box.cell[[2, 0, 1]]), axis=1)
    assert heights.min() >= 14.0 - 1e-9
    inside = box.positions[:, None] - box.positions[None]
    distances = np.linalg.norm(inside, axis=2)[~np.eye(len(box.positions), dtype=bool)]
    assert distances.min() > 1.2


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/si.nn.dat", "si"),
        ("fit.run.h5", "fit"),
        ("fit.m003.nn.dat", "fit"),
        ("old.dat", "old"),
        ("al.m001.pinn", "al"),
    ],
)
def test_stems(name, stem):
    assert stem_of(name) == stem


def test_names_follow_the_form():
    potential = replace(make_potential(n_outputs=8), form="plain")
    assert member_names(potential, "al") == ["al.pinn"]
    assert member_names(join_members([potential, potential]), "al") == ["al.m000.pinn", "al.m001.pinn"]
    assert member_names(make_potential(), "si") == ["si.nn.dat"]
