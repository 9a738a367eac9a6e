"""Labels under the names that programs write, the user's choice among them, and contradictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.labels import LabelFinder, Labels, Meaning, Scale, meaning
from pyfit_gpu.formats.read_options import ReadOptions

CUBE = 4.0 * np.eye(3)  # 64 Å^3
FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])


def labels(
    values: dict[str, Any] | None = None,
    columns: dict[str, Any] | None = None,
    options: ReadOptions | None = None,
    *,
    cell: Any = CUBE,
    scale: Scale | None = None,
    path: str = "folder/set.a.xyz",
) -> Labels:
    values, columns = values or {}, columns or {}
    finder = LabelFinder(values, columns, options or ReadOptions(), "a.xyz, structure 2")
    return finder.labels(values, columns, 2, np.asarray(cell), path, *([scale] if scale else []))


# --- names


@pytest.mark.parametrize("case", [str, str.upper, str.title, lambda name: name.replace("_", "-")])
@pytest.mark.parametrize(
    ("name", "label", "origin"),
    [
        *((name, "energy", "") for name in ("energy", "free_energy", "total_energy", "potential_energy", "pot_energy")),
        *((f"{origin}_energy", "energy", origin) for origin in ("ref", "dft", "mace", "qm", "vasp", "target", "gap")),
        *((f"energy_{origin}", "energy", origin) for origin in ("dft", "ref", "pbe", "true")),
        ("dft_free_energy", "energy", "dft"),
        ("ref_total_energy", "energy", "ref"),
        *((name, "forces", "") for name in ("force", "forces")),
        *((name, "forces", "ref") for name in ("ref_force", "ref_forces", "forces_ref")),
        *(
            (name, "stress", origin)
            for name, origin in (("stress", ""), ("dft_stress", "dft"), ("stress_mace", "mace"))
        ),
        *((name, "virial", "") for name in ("virial", "virials")),
        *((name, "virial", "ref") for name in ("ref_virial", "ref_virials", "virials_ref")),
        ("group", "group", ""),
        ("config_type", "group", ""),
        ("weight", "weight", ""),
    ],
)
def test_names(name: str, label: str, origin: str, case: Any) -> None:
    found = meaning(case(name))
    assert found is not None
    assert found[:2] == (label, origin)


@pytest.mark.parametrize(
    "name",
    ["", "_", "energy_", "_energy", "energies", "energy_std", "energy_weight", "forces_std", "local_energy", "dipole",
     "ref_group", "dft_weight", "config_weight", "atomization_energy", "energy_dft_ref", "ref_dft_energy", "dft", "ref",
     "free", "energyforces", "interaction_energy", "e", "f", "stresses_"],
)  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    assert meaning(name) is None


def test_a_meaning_says_which_name_counts_first() -> None:
    assert meaning("Free_Energy") == Meaning("energy", "", 0)
    assert meaning("DFT_energy") == Meaning("energy", "dft", 1)


@pytest.mark.parametrize(
    "name", ["energy", "Energy", "REF_energy", "dft_energy", "DFT_Energy", "mace_energy", "energy_dft"]
)
def test_energy(name: str) -> None:
    assert labels({name: "-3.5"}).energy == -3.5


@pytest.mark.parametrize("name", ["forces", "force", "REF_forces", "dft_force", "MACE_forces"])
def test_forces(name: str) -> None:
    np.testing.assert_array_equal(labels({}, {name: FORCES}).forces, FORCES)


def test_what_a_structure_lacks_is_none() -> None:
    found = labels()
    assert (found.energy, found.forces, found.stress, found.weight, found.unread) == (None, None, None, 1.0, ())
    assert found.group == "set"


def test_a_key_is_no_column_and_a_column_is_no_key() -> None:
    found = labels(
        {"forces": "1 2 3", "energy": "-1"}, {"energy": np.zeros(2), "group": np.zeros(2), "stress": np.zeros(2)}
    )
    assert (found.energy, found.forces, found.stress, found.group) == (-1, None, None, "set")
    assert found.unread == ("key forces", "column energy", "column group", "column stress")


def test_what_is_not_read_is_named() -> None:
    found = labels({"my_energy": "-1", "energy": "-1", "name": "x"}, {"spin": np.zeros(2), "force": FORCES})
    assert found.unread == ("key my_energy", "key name", "column spin")


# --- stress and virial


@pytest.mark.parametrize(
    "value",
    ["64 128 192 6.4 0 -6.4", "64 -6.4 0 -6.4 128 6.4 0 6.4 192", "_JSON [[64,-6.4,0],[-6.4,128,6.4],[0,6.4,192]]",
     np.array([[64, -6.4, 0], [-6.4, 128, 6.4], [0, 6.4, 192]])],
    ids=["six", "nine", "json", "matrix"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["virial", "virials", "REF_virial", "dft_virials"])
def test_stress_of_a_virial(name: str, value: Any) -> None:
    np.testing.assert_allclose(labels({name: value}).stress, [-1, -2, -3, -0.1, 0, 0.1], rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("hand", [1, -1])
def test_stress_of_a_virial_in_an_oblique_cell(hand: int) -> None:
    """a = (2, 0, 0), b = (1, 3, 0), c = (5, 7, 11): 66 Å^3, whatever the hand."""
    cell = np.array([[2.0, 0, 0], [1, 3, 0], [5, 7, 11 * hand]])
    np.testing.assert_allclose(
        labels({"virial": "66 0 0 0 0 -33"}, cell=cell).stress, [-1, 0, 0, 0, 0, 0.5], atol=1e-14
    )


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.diag([4.0, 4.0, 0.0])])
def test_a_virial_without_a_cell_is_said_not_to_be_read(cell: Any) -> None:
    found = labels({"virial": "1 0 0 0 0 0", "energy": "-1"}, cell=cell)
    assert found.stress is None
    assert found.unread == ("key virial (without a full cell)",)


@pytest.mark.parametrize(("difference", "are_equal"), [(9e-4, True), (1.1e-3, False)])
def test_copies_of_forces(difference: float, are_equal: bool) -> None:
    columns = {"forces": FORCES, "dft_forces": FORCES + difference}
    if are_equal:
        np.testing.assert_array_equal(labels({}, columns).forces, FORCES)
    else:
        with pytest.raises(InputError, match="two labels for forces"):
            labels({}, columns)


@pytest.mark.parametrize(("other", "are_equal"), [("1.9e-6", True), ("2.2e-6", False)])
def test_copies_of_a_small_stress(other: str, are_equal: bool) -> None:
    values = {"stress": "1e-6 0 0 0 0 0", "dft_stress": f"{other} 0 0 0 0 0"}
    if are_equal:
        assert labels(values).stress is not None
    else:
        with pytest.raises(InputError, match="two labels for stress"):
            labels(values)


def test_stress_and_virial_that_agree() -> None:
    found = labels({"stress": "1 0 0 0 0 0", "virial": "-64.03 0 0 0 0 0"})
    assert found.stress is not None
    assert found.stress.tolist() == [1, 0, 0, 0, 0, 0]
    assert found.unread == ()


# --- two of one label


@pytest.mark.parametrize(
    ("values", "label", "names"),
    [
        ({"energy": "-1", "dft_energy": "-2"}, "energy", "energy -1; dft_energy -2"),
        ({"dft_energy": "-1", "REF_energy": "-1.002"}, "energy", "dft_energy -1; REF_energy -1.002"),
        ({"energy": "-10000", "dft_energy": "-10000.05"}, "energy", "energy -10000; dft_energy -10000.05"),
        ({"energy": "-1", "Energy": "-2"}, "energy", "energy -1; Energy -2"),
        ({"energy": "-1", "total_energy": "-2"}, "energy", "energy -1; total_energy -2"),
        ({"energy": "0", "dft_energy": "-2"}, "energy", "energy 0; dft_energy -2"),
        ({"free_energy": "-1", "dft_energy": "-2"}, "energy", "free_energy -1; dft_energy -2"),
        ({"free_energy": "-1", "energy": "-1", "mace_energy": "-2"}, "energy", "energy -1; mace_energy -2"),
        ({"free_energy": "-1", "energy": "-2", "Free_energy": "-3"}, "energy", "free_energy -1; Free_energy -3"),
        ({"stress": "1 0 0 0 0 0", "virial": "64 0 0 0 0 0"}, "stress", "stress 1; -virial / volume -1 "),
        ({"stress": "1 0 0 0 0 0", "dft_stress": "2 0 0 0 0 0"}, "stress", "stress 1; dft_stress 2"),
        ({"virial": "64 0 0 0 0 0", "REF_virial": "1 0 0 0 0 0"}, "stress",
         "-virial / volume -1; -REF_virial / volume -0.015625"),
    ],
)  # fmt: skip
def test_contradictions_name_both(values: dict[str, Any], label: str, names: str) -> None:
    message = f"a.xyz, structure 2: has two labels for {label}, which differ: {names}"
    with pytest.raises(InputError, match=message) as caught:
        labels(values)
    remedy = Remedy.STRESS_KEY if label == "stress" else Remedy.LABEL_KEY
    assert (caught.value.setting, caught.value.remedy) == (f"{label}_key", remedy)


def test_contradicting_forces() -> None:
    with pytest.raises(
        InputError, match=r"two labels for forces, which differ: forces -0\.3; dft_forces 0\.3 "
    ) as caught:
        labels({}, {"forces": FORCES, "dft_forces": FORCES * [[1, 1, 1], [1, 1, -1]]})
    assert caught.value.setting == "forces_key"


def test_a_contradiction_in_any_pair_is_found() -> None:
    with pytest.raises(InputError, match="energy -1; ref_energy -2"):
        labels({"energy": "-1", "dft_energy": "-1", "ref_energy": "-2"})


@pytest.mark.parametrize(
    ("values", "energy"),
    [
        ({"energy": "-1", "free_energy": "-2"}, -2),
        ({"free_energy": "-2", "energy": "-1"}, -2),
        ({"dft_energy": "-1", "dft_free_energy": "-2"}, -2),
        ({"energy": "-1", "Free_Energy": "-2"}, -2),
        ({"energy": "-1", "free_energy": "-2", "dft_energy": "-1"}, -2),
        ({"energy": "-100.000001", "dft_energy": "-100.0000012"}, -100.000001),
        ({"energy": "-10000.12", "dft_energy": "-10000.1205"}, -10000.12),
        ({"dft_energy": "-1", "energy": "-1"}, -1),
        ({"energy": "0", "dft_energy": "0"}, 0),
    ],
)
def test_what_is_no_contradiction(values: dict[str, Any], energy: float) -> None:
    assert labels(values).energy == energy


# --- the user's choice


def test_the_names_of_the_user() -> None:
    values = {
        "energy": "-1", "my_energy": "-2", "my_stress": "1 2 3 4 5 6", "virial": "1 0 0 0 0 0", "phase": "hcp",
        "group": "x", "w": "0.5", "weight": "3",
    }  # fmt: skip
    options = ReadOptions(
        energy_key="my_energy", forces_key="F", stress_key="my_stress", group_key="phase", weight_key="w"
    )
    found = labels(values, {"forces": FORCES, "F": 2 * FORCES}, options)
    assert (found.energy, found.group, found.weight) == (-2, "hcp", 0.5)
    np.testing.assert_array_equal(found.forces, 2 * FORCES)
    np.testing.assert_array_equal(found.stress, [1, 2, 3, 4, 5, 6])
    assert found.unread == ("key energy", "key virial", "key group", "key weight", "column forces")
    assert found.chosen == ("energy_key", "forces_key", "stress_key", "group_key", "weight_key")


@pytest.mark.parametrize(("wanted", "energy"), [("E", -1), ("e", -2), ("Energy", -3), ("ENERGY", -3)])
def test_exact_before_any_case(wanted: str, energy: float) -> None:
    assert labels({"E": "-1", "e": "-2", "Energy": "-3"}, options=ReadOptions(energy_key=wanted)).energy == energy


def test_a_choice_ends_a_contradiction() -> None:
    values = {"energy": "-1", "dft_energy": "-2", "stress": "1 0 0 0 0 0", "virial": "64 0 0 0 0 0"}
    found = labels(values, options=ReadOptions(energy_key="dft_energy", virial_key="virial"))
    assert (found.energy, found.unread) == (-2, ("key energy", "key stress"))
    np.testing.assert_allclose(found.stress, [-1, 0, 0, 0, 0, 0], rtol=1e-14)
    found = labels(values, options=ReadOptions(energy_key="energy", stress_key="stress"))
    assert (found.energy, found.unread) == (-1, ("key dft_energy", "key virial"))
    np.testing.assert_array_equal(found.stress, [1, 0, 0, 0, 0, 0])


def test_a_chosen_name_is_a_key_or_a_column_as_its_label_is() -> None:
    found = labels({"f": "-1"}, {"e": FORCES, "f": FORCES}, ReadOptions(energy_key="e", forces_key="f"))
    assert found.energy is None
    np.testing.assert_array_equal(found.forces, FORCES)
    assert (found.chosen, found.unread) == (("forces_key",), ("key f", "column e"))


def test_a_name_that_is_not_there_leaves_the_label_unknown() -> None:
    found = labels({"energy": "-1"}, options=ReadOptions(energy_key="my_energy"))
    assert (found.energy, found.chosen, found.unread) == (None, (), ("key energy",))


# --- group and weight


@pytest.mark.parametrize(
    ("values", "group"),
    [
        ({"group": "Si_B1", "config_type": "other"}, "Si_B1"),
        ({"config_type": "other", "GROUP": "Si_B1"}, "Si_B1"),
        ({"Config_Type": "liquid"}, "liquid"),
        ({"group": "two  words"}, "two_words"),
        ({"group": "", "config_type": "b"}, "b"),
        ({"group": " "}, "set"),
        ({"group": 12}, "12"),
        ({"group": '_JSON "001"'}, "001"),
    ],
)
def test_group(values: dict[str, Any], group: str) -> None:
    assert labels(values).group == group


@pytest.mark.parametrize(
    ("path", "group"),
    [("a/b.c/d.xyz.gz", "d"), (".hidden.xyz", ".hidden.xyz"), ("my run.xyz", "my_run"), ("noending", "noending")],
)
def test_group_of_a_file(path: str, group: str) -> None:
    assert labels(path=path).group == group


def test_structures_for_predictions_only_have_no_energy() -> None:
    assert labels({"group": "NO_DFT_1", "energy": "-1"}).energy is None
    assert labels({"config_type": "NO_DFT", "dft_energy": "-1"}).energy is None
    assert labels({"group": "no_dft", "energy": "-1"}).energy == -1


def test_weight() -> None:
    assert labels({"Weight": "0"}).weight == 0
    assert labels({"weight": 2.5}).weight == 2.5
    with pytest.raises(InputError, match=r"a.xyz, structure 2: weight must be 0 or more, got -1\.0"):
        labels({"weight": "-1"})


# --- values


@pytest.mark.parametrize(
    ("values", "columns", "message"),
    [
        ({"energy": "low"}, {}, "energy must be numbers"),
        ({"REF_energy": "1 2"}, {}, "REF_energy must be numbers"),
        ({"energy": "nan"}, {}, "energy has NaN or infinity"),
        ({"virial": "1 2 3"}, {}, "virial must be numbers"),
        ({"weight": "heavy"}, {}, "weight must be numbers"),
        ({}, {"force": np.zeros((2, 2))}, r"force must be numbers of shape \(2, 3\)"),
        ({}, {"forces": np.full((2, 3), np.nan)}, "forces has NaN or infinity"),
        ({"energy": "-1", "dft_energy": "low"}, {}, "dft_energy must be numbers"),
    ],
)
def test_faults_name_the_label_as_the_file_does(values: dict[str, Any], columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^a.xyz, structure 2: {message}"):
        labels(values, columns)


def test_scale() -> None:
    scale = Scale(energy=2.0, forces=3.0, stress=5.0, virial=7.0)
    found = labels({"energy": "-1", "stress": "1 0 0 0 0 0"}, {"forces": FORCES}, scale=scale)
    assert found.energy == -2
    np.testing.assert_array_equal(found.forces, 3 * FORCES)
    np.testing.assert_array_equal(found.stress, [5, 0, 0, 0, 0, 0])
    stress = labels({"virial": "64 0 0 0 0 0"}, scale=scale).stress
    np.testing.assert_allclose(stress, [-7, 0, 0, 0, 0, 0], rtol=1e-14)
