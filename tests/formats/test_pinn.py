"""Files of physically informed networks: both forms and layouts, several elements, bare bond-order potentials."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from formats.test_nn_dat import assert_same
from sample_sets import make_potential

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import PINN, POTENTIAL, identify
from pyfit_gpu.formats.nn_dat import check_form, load_potential, save_draft, save_potential
from pyfit_gpu.formats.nn_dat_header import header_lines, parse_header
from pyfit_gpu.formats.opening import load_potentials, load_structures
from pyfit_gpu.formats.shared_network import _common_part
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.models.energy import local_parameters
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures

MakeFrame = Callable[..., object]
ELEMENTS = ("Si", "C", "Ge")
SHIFT = 0.3

# 2 inputs, 2 hidden, 8 outputs: 6 + 24 values. Lines 1 to 3 are comments, 4 to 11 the header.
COMMENTS = "# A potential\n# somebody, 2020\n#\n"
HEADER = """\
 2 0.3 1 - Gi version, reference Gi and type of logistic function.
 1 - number of chemical species in the system.
 Si 28.0855
 0 0.25 4.5 1.0 0.8
 2 0 3
 1 2.5
 3 2 2 8
 1 9.6 4.7 4.3 1.45 -0.12 0.8 0.9 0.85
"""
VALUES = "".join(f"{k / 8:.8e}\n" for k in range(30))


def with_line(number: int, text: str, content: str = COMMENTS + HEADER + VALUES) -> str:
    lines = content.splitlines(keepends=True)
    lines[number - 1] = text and text + "\n"
    return "".join(lines)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Potential]:
    def load(content: str, name: str = "si.pinn") -> Potential:
        (tmp_path / name).write_text(content)
        return load_potential(tmp_path / name)

    return load


def informed(
    n_elements: int = 1, *, form: str = "plain", hidden: tuple[int, ...] = (4, 3), **keywords: object
) -> Potential:
    """A physically informed network with numbers that need all digits; of several elements in squared form."""
    n_parameters = 4 * n_elements + 1 + 3 * n_elements**2
    rng = np.random.default_rng(n_elements)
    potential = make_potential(
        ELEMENTS[:n_elements], gi_mode=2, shift=SHIFT, hidden=hidden, n_outputs=n_parameters, **keywords
    )
    baseline = tuple(rng.normal(size=n_elements * n_parameters).tolist())
    return replace(potential, form=form, use_baseline=True, bond_order_parameters=baseline)


def bare(n_elements: int = 1, form: str = "squared") -> Potential:
    potential = informed(n_elements, form=form)
    sizes = (0, potential.networks.layer_sizes[-1])
    zero = torch.zeros(1, n_elements * sizes[1], dtype=torch.float64)
    networks = ElementNetworks.from_flat(zero, sizes, n_elements=n_elements, activation=1)
    return replace(potential, networks=networks)


class Shared:
    """One network for several elements as a `.pinn` file has it, written and evaluated by hand."""

    def __init__(self, n_elements: int, kind: int, *, hidden: tuple[int, ...] = (4, 3), n_outputs: int = 0) -> None:
        """Make one with random numbers; n_outputs 0: those of a physically informed network."""
        self.potential = informed(n_elements, hidden=hidden)
        self.n_elements, self.kind = n_elements, kind
        self.n_features = self.potential.descriptor.n_features
        each = self.potential.networks.layer_sizes[-1]
        self.sizes = [
            self.n_features * (n_elements if kind == 1 else 1), *hidden, n_outputs or n_elements * each
        ]  # fmt: skip
        rng = np.random.default_rng(kind)
        self.layers = [
            (rng.normal(size=(n_in, n_out)), rng.normal(size=n_out))
            for n_in, n_out in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        ]

    def text(self) -> str:
        lines = header_lines(self.potential, layers_first=True, layer_sizes=self.sizes)
        values = [value for layer in self.layers for part in layer for value in part.flatten().tolist()]
        return "\n".join([*lines, *(repr(value) for value in values)]) + "\n"

    def outputs(self, features: np.ndarray, element: int) -> np.ndarray:
        inputs = features
        if self.kind == 1:
            inputs = np.full(self.n_elements * self.n_features, math.asinh(SHIFT))
            inputs[element * self.n_features : (element + 1) * self.n_features] = features
        for number, (weight, bias) in enumerate(self.layers, start=1):
            inputs = inputs @ weight + bias
            if number < len(self.layers):
                inputs = np.tanh(inputs / 2) / 2
        return inputs.reshape(self.n_elements, -1)[element] if len(inputs) > 1 else inputs


def outputs_of(potential: Potential, features: np.ndarray) -> np.ndarray:
    """(S, n_out) for one atom of each element with the same features."""
    n_elements = potential.descriptor.n_elements
    inputs = torch.from_numpy(features).expand(n_elements, 1, -1)
    return potential.networks(inputs)[0, :, 0].numpy()


class TestForms:
    def test_both_layouts_say_their_form(self, load: Callable[..., Potential]) -> None:
        plain = load(COMMENTS + HEADER + VALUES)
        lines = HEADER.splitlines(keepends=True)
        squared = load("".join([*lines[:6], lines[7], lines[6]]) + VALUES, "si.nn.dat")
        assert (plain.form, squared.form) == ("plain", "squared")
        assert (
            plain.bond_order_parameters == squared.bond_order_parameters == (9.6, 4.7, 4.3, 1.45, -0.12, 0.8, 0.9, 0.85)
        )
        assert torch.equal(plain.networks.flat(), squared.networks.flat())
        assert plain.networks.flat()[0].tolist() == [k / 8 for k in range(30)]
        assert plain.descriptor == squared.descriptor

    def test_without_comments(self, load: Callable[..., Potential], tmp_path: Path) -> None:
        """Aladynpi has its PINN.dat like this; text after the numbers is a comment."""
        found = load(HEADER.replace(" 3 2 2 8", " 3 2 2 8 - layers") + VALUES, "PINN.dat")
        assert found.form == "plain"
        assert_same(found, load(COMMENTS + HEADER + VALUES))
        assert identify(tmp_path / "PINN.dat") is identify(tmp_path / "si.pinn") is PINN

    def test_a_reserved_column(self, load: Callable[..., Potential]) -> None:
        values = VALUES.replace("\n", " 0.0000\n")
        assert_same(load(COMMENTS + HEADER + values), load(COMMENTS + HEADER + VALUES))

    @pytest.mark.parametrize(("form", "name"), [("plain", "x.pinn"), ("squared", "x.nn.dat")])
    @pytest.mark.parametrize("use_baseline", [False, True])
    def test_round_trip(self, tmp_path: Path, form: str, name: str, use_baseline: bool) -> None:
        potential = replace(informed(form=form), use_baseline=use_baseline, energy_shift=torch.tensor([0.1]).double())
        save_potential(potential, tmp_path / name)
        found = load_potential(tmp_path / name)
        assert_same(found, potential)
        assert found.form == form
        assert identify(tmp_path / name) is (PINN if form == "plain" else POTENTIAL)

    @pytest.mark.parametrize(("form", "name"), [("squared", "x.pinn"), ("plain", "x.nn.dat"), ("plain", "PINN.dat")])
    def test_files_of_the_other_form(self, tmp_path: Path, form: str, name: str) -> None:
        other = "squared" if form == "plain" else "plain"
        message = rf"cannot hold a physically informed network \({form} form\).* in {other} form.*expected a name"
        for write in (save_potential, save_draft, check_form):
            with pytest.raises(InputError, match=message):
                write(informed(form=form), tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_straight_networks_have_no_form(self, tmp_path: Path) -> None:
        potential = make_potential(gi_mode=2, shift=SHIFT)
        for name in ("x.pinn", "x.nn.dat"):
            save_potential(potential, tmp_path / name)
            assert_same(load_potential(tmp_path / name), potential)
        assert load_potential(tmp_path / "x.pinn").form == "squared"
        assert identify(tmp_path / "x.pinn") is PINN

    def test_members_of_both_forms_do_not_mix(self, tmp_path: Path) -> None:
        save_potential(informed(), tmp_path / "a.pinn")
        save_potential(informed(form="squared"), tmp_path / "b.nn.dat")
        save_potential(make_potential(gi_mode=2, shift=SHIFT), tmp_path / "c.nn.dat")
        names = [tmp_path / name for name in ("a.pinn", "b.nn.dat", "c.nn.dat")]
        with pytest.raises(InputError, match=r"b\.nn\.dat cannot be a member beside .*a\.pinn.*plain form.*squared"):
            load_potentials(names[:2])
        with pytest.raises(InputError, match=r"expected a physically informed network .*, found a straight network"):
            load_potentials(names[1:])

    def test_within_another_file(self) -> None:
        """Run files and sets hold a header, in which every element has its own network in both forms."""
        for potential in (
            informed(2),
            informed(2, form="squared"),
            informed(),
            bare(2, "plain"),
            bare(),
            make_potential(),
        ):
            found = parse_header(list(enumerate(header_lines(potential), 1)), "header")
            assert found.form == potential.form
            assert found.networks.layer_sizes == potential.networks.layer_sizes
            assert found.bond_order_parameters == potential.bond_order_parameters


class TestSeveralElements:
    @pytest.mark.parametrize("kind", [1, 2])
    @pytest.mark.parametrize(("n_elements", "hidden"), [(2, (4, 3)), (3, (4,)), (2, ())], ids=str)
    def test_one_network_for_all(
        self, load: Callable[..., Potential], kind: int, n_elements: int, hidden: tuple[int, ...]
    ) -> None:
        shared = Shared(n_elements, kind, hidden=hidden)
        found = load(shared.text())
        assert found.form == "plain"
        features = np.random.default_rng(5).normal(size=shared.n_features)
        expected = [shared.outputs(features, element) for element in range(n_elements)]
        np.testing.assert_allclose(outputs_of(found, features), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("kind", [1, 2])
    @pytest.mark.parametrize("n_outputs", [1, 2])
    def test_straight_networks(self, load: Callable[..., Potential], kind: int, n_outputs: int) -> None:
        """One output for all elements, or one for each."""
        shared = Shared(2, kind, n_outputs=n_outputs)
        found = load(shared.text())
        assert not found.is_physically_informed
        features = np.random.default_rng(5).normal(size=shared.n_features)
        expected = [shared.outputs(features, element) for element in range(2)]
        np.testing.assert_allclose(outputs_of(found, features), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("kind", [1, 2])
    @pytest.mark.parametrize("n_outputs", [1, 2, 0])
    def test_written_back(self, load: Callable[..., Potential], tmp_path: Path, kind: int, n_outputs: int) -> None:
        shared = Shared(2, kind, n_outputs=n_outputs)
        found = load(shared.text())
        save_potential(found, tmp_path / "copy.pinn")
        layers = (tmp_path / "copy.pinn").read_text().splitlines()[10]
        assert [int(cell) for cell in layers.split()] == [4, *shared.sizes]
        again = load_potential(tmp_path / "copy.pinn")
        assert again.bond_order_parameters == found.bond_order_parameters
        assert torch.equal(again.networks.flat(), found.networks.flat())

    @pytest.mark.parametrize("scale", [1e-6, 0.03, 1.0, 30.0])
    def test_biases_without_the_constant_inputs_are_found_to_the_last_bit(self, scale: float) -> None:
        """Rounded sums of one number and others do not give it back, but one with which they are the same."""
        rng = np.random.default_rng(1)
        added = torch.from_numpy(scale * rng.normal(size=(3, 2000)))
        sums = torch.from_numpy(rng.normal(size=2000)) + added
        assert torch.equal(_common_part(sums, added) + added, sums)

    def test_networks_of_their_own(self, tmp_path: Path) -> None:
        potential = informed(2)
        with pytest.raises(InputError, match=r"x\.pinn: cannot hold .* whose elements have networks of their own"):
            save_potential(potential, tmp_path / "x.pinn")
        with pytest.raises(InputError, match=r"x\.pinn: cannot hold what a training makes"):
            check_form(potential, tmp_path / "x.pinn", trained=True)
        check_form(informed(), tmp_path / "x.pinn", trained=True)
        check_form(bare(2, "plain"), tmp_path / "x.pinn", trained=True)

    def test_a_draft_is_one_network(self, tmp_path: Path) -> None:
        for potential in (informed(2), make_potential(("Si", "C"), gi_mode=2)):
            save_draft(potential, tmp_path / "x.pinn")
            found = load_potential(tmp_path / "x.pinn", seed=1)
            assert found.networks.layer_sizes == potential.networks.layer_sizes
            assert torch.equal(found.networks.weights[0][0, 0], found.networks.weights[0][0, 1])
            save_potential(found, tmp_path / "y.pinn")

    def test_a_hidden_bias_that_differs(self, load: Callable[..., Potential], tmp_path: Path) -> None:
        found = load(Shared(2, 2).text())
        found.networks.biases[1][0, 1, 0] += 1e-15
        with pytest.raises(InputError, match="networks of their own"):
            save_potential(found, tmp_path / "copy.pinn")

    @pytest.mark.parametrize("n_elements", [2, 3])
    def test_squared_files_have_a_network_each(self, tmp_path: Path, n_elements: int) -> None:
        potential = informed(n_elements, form="squared")
        save_potential(potential, tmp_path / "x.nn.dat")
        assert_same(load_potential(tmp_path / "x.nn.dat"), potential)

    def test_foreign_blocks_are_named(
        self, load: Callable[..., Potential], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "pyfit_gpu"):
            found = load(Shared(2, 2).text())
            assert "features of 2 elements" in caplog.text
            assert "could not be verified" in caplog.text
            caplog.clear()
            save_potential(found, tmp_path / "own.pinn")
            load_potential(tmp_path / "own.pinn")
            load(COMMENTS + HEADER + VALUES)
        assert caplog.text == ""


class TestBare:
    @pytest.mark.parametrize("n_elements", [1, 2])
    @pytest.mark.parametrize(("form", "name"), [("plain", "x.pinn"), ("squared", "x.nn.dat")])
    def test_round_trip(self, tmp_path: Path, form: str, name: str, n_elements: int) -> None:
        potential = bare(n_elements, form)
        save_potential(potential, tmp_path / name)
        found = load_potential(tmp_path / name)
        assert_same(found, potential)
        assert (found.form, found.is_bare) == (form, True)

    def test_what_is_written(self, tmp_path: Path) -> None:
        potential = replace(bare(), bond_order_parameters=tuple(float(k) for k in range(8)))
        save_potential(potential, tmp_path / "x.nn.dat")
        assert (tmp_path / "x.nn.dat").read_text().splitlines()[6:] == [" 1 0.0 1.0 2.0 3.0 4.0 5.0 6.0 7.0", " 0"]

    @pytest.mark.parametrize("use_baseline", [True, False])
    def test_what_was_trained_goes_into_the_baseline(self, tmp_path: Path, use_baseline: bool) -> None:
        potential = replace(bare(2), use_baseline=use_baseline)
        trained = torch.randn(2, 42, dtype=torch.float64)
        potential = replace(potential, networks=potential.networks.with_flat(trained))
        save_potential(potential, tmp_path / "x.nn.dat", member=1)
        found = load_potential(tmp_path / "x.nn.dat")
        expected = trained[1] + use_baseline * potential.baseline.flatten()
        assert torch.equal(found.baseline.flatten(), expected)
        assert not found.networks.flat().any()

    def test_parameters_around_the_baseline_are_drawn(self, tmp_path: Path) -> None:
        save_draft(replace(bare(), max_random=0.125), tmp_path / "x.nn.dat")
        drawn = [load_potential(tmp_path / "x.nn.dat", seed=seed).networks.flat() for seed in (1, 2)]
        assert 0 < float(drawn[0].abs().max()) <= 0.125
        assert not torch.equal(*drawn)

    def test_parameters_of_all_atoms_are_the_baseline(self, random_frame: MakeFrame) -> None:
        structures = Structures.from_frames([random_frame(1, 3, elements=("Si", "C"))])
        potential = bare(2)
        species = potential.species_index(structures)
        found = local_parameters(potential, featurize(structures, potential)[:, :0], species)
        assert torch.equal(found[0], potential.baseline[species])


def lines_of(potential: Potential, path: Path) -> list[str]:
    save_potential(potential, path)
    return path.read_text().splitlines()


class TestFaults:
    @pytest.mark.parametrize(
        ("line", "text", "message"),
        [
            (4, "7 0.3 1", "line 4: .*gi_mode.*2: asinh.G . shift.*got 7"),
            (4, "2 0.3 3", "line 4: .*activation.*2: tanh.*got 3"),
            (10, "3 2 2 7", r"line 10: .*1 output \(energy\) or 8.*found '3 2 2 7'"),
            (10, "3 4 2 8", "line 10: .*2 inputs.*found '3 4 2 8'"),
            (10, "0", "line 12: expected 0 weights"),
            (10, "1 9.6 4.7 4.3 1.45 -0.12 0.8 0.9 0.85", "line 10: .*layer sizes"),  # as in a .nn.dat file
            (11, "1 9.6 4.7 4.3 1.45 -0.12 0.8 0.9", "line 11: .*8 bond-order parameters, not 7"),
            (11, "1 9.6 4.7 4.3 1.45 -0.12 0.8 0.9 0.85 1", "line 11: .*8 bond-order parameters, not 9"),
            (11, "2 9.6 4.7 4.3 1.45 -0.12 0.8 0.9 0.85", "line 11: .*baseline flag 0 or 1"),
            (11, "", "line 11: .*baseline flag"),
            (20, "x", "line 20: .*weight or bias"),
            (20, "", "expected 30 weights.*found 29"),
        ],
    )
    def test_plain(self, load: Callable[..., Potential], line: int, text: str, message: str) -> None:
        with pytest.raises(InputError, match=rf"si\.pinn.*{message}"):
            load(with_line(line, text))

    @pytest.mark.parametrize(("count", "n_elements"), [(7, 1), (9, 1), (8, 2), (41, 2), (43, 2)])
    def test_wrong_count_of_baseline_numbers(
        self, load: Callable[..., Potential], tmp_path: Path, count: int, n_elements: int
    ) -> None:
        lines = lines_of(informed(n_elements, form="squared"), tmp_path / "x.nn.dat")
        place = 5 + n_elements
        lines[place] = " 1" + " 0.5" * count
        each = 4 * n_elements + 1 + 3 * n_elements**2
        message = rf"line {place + 1}: .*the baseline flag and {n_elements * each} bond-order parameters.*, not {count}"
        with pytest.raises(InputError, match=message):
            load("\n".join(lines) + "\n", "y.nn.dat")

    @pytest.mark.parametrize("cell", ["nan", "inf", "0.5D+00"])
    def test_baseline_number_that_is_none(self, load: Callable[..., Potential], tmp_path: Path, cell: str) -> None:
        lines = lines_of(informed(1, form="squared"), tmp_path / "x.nn.dat")
        lines[6] = f" 1 0.5 0.5 {cell}" + " 0.5" * 5
        with pytest.raises(
            InputError, match=rf"line 7: .*8 bond-order parameters, not 2 of them before '{re.escape(cell)}'"
        ):
            load("\n".join(lines) + "\n", "y.nn.dat")

    def test_outputs_that_do_not_fit_the_elements(self, load: Callable[..., Potential], tmp_path: Path) -> None:
        lines = lines_of(informed(2, form="squared"), tmp_path / "x.nn.dat")
        lines[8] = lines[8].replace(" 21", " 8")
        with pytest.raises(
            InputError, match=r"line 9: .*1 output.* or 21 .*of an atom among 2 elements; 8 are .*alone.*found '.* 8'"
        ):
            load("\n".join(lines) + "\n", "y.nn.dat")
        shared = Shared(2, 2)
        shared.sizes[-1] = 21
        with pytest.raises(InputError, match=r"line 8: .*1 or 2 outputs .*, or 42 \(21 .*found '.* 21'"):
            load(shared.text())
        shared.sizes[0] += 1
        with pytest.raises(InputError, match=r"line 8: .*18 inputs \(Kind II\) or 36 \(Kind I\)"):
            load(shared.text())

    def test_bare_without_a_baseline(self, load: Callable[..., Potential], tmp_path: Path) -> None:
        lines = lines_of(bare(), tmp_path / "x.nn.dat")
        lines[6] = lines[6].replace(" 1", " 0", 1)
        with pytest.raises(InputError, match=r"line 7: .*baseline flag 1: a bond-order potential without a network"):
            load("\n".join(lines) + "\n", "y.nn.dat")

    def test_bare_with_values(self, load: Callable[..., Potential], tmp_path: Path) -> None:
        lines = lines_of(bare(), tmp_path / "x.nn.dat")
        with pytest.raises(InputError, match=r"line 9: expected 0 weights.* 0 \(no network\) and no more"):
            load("\n".join([*lines, "0.5"]) + "\n", "y.nn.dat")

    def test_bare_that_may_be_cut(self, load: Callable[..., Potential], tmp_path: Path) -> None:
        lines = lines_of(bare(form="plain"), tmp_path / "x.pinn")
        with pytest.raises(InputError, match="line end"):
            load("\n".join(lines)[:-1], "y.pinn")


class TestPublished:
    """The aluminium potential of 2020, which is not part of this repository."""

    @pytest.fixture
    def folder(self, reference_data: Path) -> Path:
        return reference_data / "pinn_published"

    def test_inputs_and_parameters(self, folder: Path) -> None:
        potential = load_potential(folder / "Al_2020.pinn")
        assert potential.form == "plain"
        structures = load_structures(folder / "aluminium.extxyz")
        expected = np.load(folder / "aluminium.npz")
        features = featurize(structures, potential)
        parameters = local_parameters(potential, features, potential.species_index(structures))[0]
        # Positions off the lattice have lost digits in the file.
        rounded = np.repeat([group.startswith(("rattled", "slab")) for group in structures.groups], structures.sizes)
        for found, name in ((features, "lsp"), (parameters, "bond_order_parameters")):
            error = np.abs(found.numpy() - expected[name]).max(axis=1)
            assert error[~rounded].max() < 1e-11, name
            assert error.max() < 3e-8, name

    def test_round_trip(self, folder: Path, tmp_path: Path) -> None:
        potential = load_potential(folder / "Al_2020.pinn")
        save_potential(potential, tmp_path / "copy.pinn")
        assert_same(load_potential(tmp_path / "copy.pinn"), potential)
        assert identify(folder / "Al_2020.pinn") is PINN
