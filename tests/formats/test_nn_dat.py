"""Potential files: to the bit and back, the classic header with its comments, random weights, and every fault."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from sample_sets import make_potential

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.models.potential import Potential

Load = Callable[..., Potential]

OWN = ["nn_mode0", "nn_mode1", "nn_wide", "pinn_mode1", "pinn_mode3", "pinn_mode4", "mode5_silicon", "two_elements"]

# 2 inputs, 2 hidden, 1 output: lines 1 to 8, then 9 values on lines 9 to 17.
HEADER = """\
 1 0.5 1
 1
 Si 28.0855
 0 0.25 4.5 1.0 0.8
 2 0 3
 1 2.5
 0 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85
 3 2 2 1
"""
VALUES = "".join(f" {k / 8} 0.0000\n" for k in range(9))


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The potential of a file with the given content."""

    def load(content: str | bytes, **keywords: object) -> Potential:
        path = tmp_path / "si.nn.dat"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_potential(path, **keywords)

    return load


def with_line(number: int, text: str, content: str = HEADER + VALUES) -> str:
    lines = content.splitlines(keepends=True)
    lines[number - 1] = text and text + "\n"
    return "".join(lines)


def weights_of(potential: Potential) -> bytes:
    return potential.networks.flat().numpy().tobytes()


def assert_same(found: Potential, expected: Potential) -> None:
    """Everything a file holds, to the bit."""
    assert weights_of(found) == weights_of(expected)
    assert found.networks.layer_sizes == expected.networks.layer_sizes
    assert found.networks.activation == expected.networks.activation
    assert found.descriptor == expected.descriptor
    assert found.energy_shift.numpy().tobytes() == expected.energy_shift.numpy().tobytes()
    for name in ("masses", "max_random", "use_baseline", "bond_order_parameters"):
        assert getattr(found, name) == getattr(expected, name), name


def assert_agrees_with_another_reader(potential: Potential, path: Path) -> None:
    nn = pair_sum.read_nn_dat(path)
    d = potential.descriptor
    assert [d.gi_mode, d.shift, d.cutoff, d.cutoff_width, d.gaussian_width] == [
        nn[name] for name in ("gi_mode", "shift", "rc", "d", "sigma")
    ]
    assert (list(d.elements), list(potential.masses)) == (nn["symbols"], nn["masses"])
    assert (list(d.legendre_orders), list(d.gaussian_centers)) == (nn["legendre_orders"], nn["r0"].tolist())
    assert potential.networks.activation == nn["activation"]
    assert potential.max_random == nn["max_random"]
    assert (potential.use_baseline, list(potential.bond_order_parameters)) == (
        nn["baseline"],
        nn["baseline_parameters"].tolist(),
    )
    shifts = [None if np.isnan(shift) else shift for shift in potential.energy_shift.tolist()]
    assert shifts == nn["e_shifts"]
    for kind, layers in enumerate(nn["layers"]):
        assert len(layers) == len(potential.networks.weights)
        for layer, (weight, bias) in enumerate(layers):
            assert np.array_equal(potential.networks.weights[layer][0, kind].numpy(), weight.T)
            assert np.array_equal(potential.networks.biases[layer][0, kind].numpy(), bias)


@pytest.mark.parametrize("name", OWN)
def test_round_trip(own_data: Path, tmp_path: Path, name: str) -> None:
    path = own_data / f"{name}.nn.dat"
    potential = load_potential(path)
    assert potential.dtype == torch.float64
    assert_agrees_with_another_reader(potential, path)
    save_potential(potential, tmp_path / "copy.nn.dat")
    assert_same(load_potential(tmp_path / "copy.nn.dat"), potential)
    assert_agrees_with_another_reader(potential, tmp_path / "copy.nn.dat")


def test_every_own_file_is_tested(own_data: Path) -> None:
    assert sorted(path.name for path in own_data.glob("*.nn.dat")) == sorted(f"{name}.nn.dat" for name in OWN)


def test_awkward_numbers_survive(load: Load, tmp_path: Path) -> None:
    """Numbers that need all 17 digits, everywhere."""
    rng = np.random.default_rng(4)
    header = HEADER
    for number in ("28.0855", "0.25", "4.5 1.0 0.8", "2.5", "9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85"):
        header = header.replace(number, " ".join(map(repr, rng.uniform(1, 9, len(number.split())).tolist())), 1)
    values = [0.1 + 0.2, -1e-300, 5e-324, 1.7976931348623157e308, -0.0, *rng.normal(size=4)]
    potential = load(header.replace(" 0.5 ", " 0.1 ") + "".join(f"{float(x)!r} 0.0\n" for x in values))
    assert potential.networks.flat().numpy().tobytes() == np.array(values).tobytes()
    save_potential(potential, tmp_path / "copy.nn.dat")
    assert_same(load_potential(tmp_path / "copy.nn.dat"), potential)


def test_settings_made_with_numpy_are_written_as_numbers(load: Load, tmp_path: Path) -> None:
    """np.linspace is the natural way to make Gaussian centres, and its numbers print as np.float64(2.5)."""
    potential = load(HEADER + VALUES)
    names = ("shift", "cutoff", "gaussian_width")
    settings: dict[str, object] = {name: np.float64(getattr(potential.descriptor, name)) for name in names}
    settings |= {"gaussian_centers": tuple(np.array([2.5])), "legendre_orders": tuple(np.array([0, 3]))}
    changes = {"descriptor": replace(potential.descriptor, **settings), "masses": (np.float64(28.0855),)}
    save_potential(replace(potential, **changes), tmp_path / "copy.nn.dat")
    assert_same(load_potential(tmp_path / "copy.nn.dat"), potential)


def test_order_of_the_weights(load: Load) -> None:
    """Per layer all weights leaving input 1, then input 2, then the biases."""
    potential = load(HEADER + "".join(f"{k}\n" for k in range(9)))
    assert potential.networks.weights[0][0, 0].tolist() == [[0, 1], [2, 3]]  # [from][to]
    assert potential.networks.biases[0][0, 0].tolist() == [4, 5]
    assert potential.networks.weights[1][0, 0].tolist() == [[6], [7]]
    assert potential.networks.biases[1][0, 0].tolist() == [8]


TWO = HEADER.replace(" 1 0.5 1\n 1\n", " 5 0.0 0\n 2\n").replace("28.0855\n", "28.0855\n C 12.011\n")
TWO = TWO.replace(" 3 2 2 1", " 3 6 2 1")


def test_two_elements(load: Load) -> None:
    """All of element 1, then all of element 2."""
    potential = load(TWO + "".join(f"{k}\n" for k in range(34)))
    assert potential.descriptor.elements == ("Si", "C")
    assert potential.masses == (28.0855, 12.011)
    assert potential.networks.biases[1][0].tolist() == [[16], [33]]
    assert potential.networks.weights[0][0, 1, 0].tolist() == [17, 18]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(" ", "   ").replace("\n", "  \n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n \n",
        lambda text: text.replace("Si", "'Si'"),
        lambda text: text.replace("Si", '"Si"'),
        lambda text: text.replace(" 0.0000", ""),
    ],
    ids=["CRLF", "tabs", "blanks", "no final newline", "empty lines", "quotes", "double quotes", "no second cell"],
)
def test_lenient(load: Load, change: Callable[[str], str]) -> None:
    assert_same(load(change(HEADER + VALUES)), load(HEADER + VALUES))


@pytest.mark.parametrize("line", range(1, 9))
@pytest.mark.parametrize("comment", [" - a comment, 3 words 1.5", " # 7", " Gi version"])
def test_comments_on_any_header_line(load: Load, line: int, comment: str) -> None:
    lines = HEADER.splitlines()
    assert_same(load(with_line(line, lines[line - 1] + comment)), load(HEADER + VALUES))


def test_energy_shift_in_the_species_lines(load: Load, tmp_path: Path) -> None:
    text = TWO.replace("28.0855", "28.0855 - e_shift 0.795023").replace("12.011", "12.011 e_shift -1e2 (PBE)")
    potential = load(text + "0\n" * 34)
    assert potential.energy_shift.tolist() == [0.795023, -100.0]
    save_potential(potential, tmp_path / "copy.nn.dat")
    assert_same(load_potential(tmp_path / "copy.nn.dat"), potential)
    one = load(text.replace("e_shift -1e2", "") + "0\n" * 34)
    assert one.energy_shift[0] == 0.795023
    assert one.energy_shift[1].isnan()
    save_potential(one, tmp_path / "copy.nn.dat")
    assert_same(load_potential(tmp_path / "copy.nn.dat"), one)


@pytest.mark.parametrize("name", ["nn_mode1", "two_elements"])
def test_comments_are_written_on_the_first_four_lines_only(own_data: Path, tmp_path: Path, name: str) -> None:
    """The classic program fails on them in the others; for two elements the species lines reach to line 4."""
    potential = load_potential(own_data / f"{name}.nn.dat")
    potential.energy_shift.fill_(1 / 3)
    path = tmp_path / "copy.nn.dat"
    save_potential(potential, path)
    lines = path.read_text().splitlines()
    n_header = 8 + potential.descriptor.n_elements - 1
    numbers_only = [all(cell.replace(".", "").lstrip("-").isdigit() for cell in line.split()) for line in lines]
    assert all(numbers_only[4:n_header])
    assert not any(numbers_only[:3])
    values = [line.split() for line in lines[n_header:]]
    assert {cells[1] for cells in values} == {"0.0000"}
    assert {len(cells) for cells in values} == {2}
    assert all(len(cells[0].lstrip("-").split("e")[0]) == 18 for cells in values)  # 17 digits and the point


RANDOM = HEADER.replace(" 0 0.25", " 1 0.25")


@pytest.mark.parametrize("values", ["", VALUES, VALUES[:20]], ids=["no values", "values", "some values"])
def test_random_weights(load: Load, tmp_path: Path, values: str) -> None:
    content = RANDOM.replace(" 3 2 2 1", " 3 2 90 1") + values
    first, again, other = (load(content, seed=seed) for seed in (1, 1, 2))
    assert weights_of(first) == weights_of(again)
    assert weights_of(first) != weights_of(other)
    weights = first.networks.flat()
    assert weights.shape == (1, 361)
    assert weights.abs().max() <= 0.25
    assert weights.min() < -0.24
    assert weights.max() > 0.24
    assert (tmp_path / "si.nn.dat").read_text() == content  # the classic program rewrites it, we never do
    assert sorted(path.name for path in tmp_path.iterdir()) == ["si.nn.dat"]
    assert weights_of(load(content)) != weights_of(load(content))  # no seed: another draw each time


def test_a_random_potential_is_written_with_its_weights(load: Load, tmp_path: Path) -> None:
    potential = load(RANDOM, seed=5)
    save_potential(potential, tmp_path / "copy.nn.dat")
    assert_same(load_potential(tmp_path / "copy.nn.dat", seed=6), potential)


def test_the_seed_does_not_touch_given_weights(load: Load) -> None:
    assert_same(load(HEADER + VALUES, seed=1), load(HEADER + VALUES, seed=2))


def test_dtype_and_member(load: Load, tmp_path: Path) -> None:
    potential = load(HEADER + VALUES, dtype=torch.float32)
    assert potential.dtype == torch.float32
    flat = torch.arange(18.0).view(2, 9)
    networks = type(potential.networks).from_flat(flat, (2, 2, 1), n_elements=1, activation=1)
    save_potential(replace(potential, networks=networks), tmp_path / "one.nn.dat", member=1)
    assert load_potential(tmp_path / "one.nn.dat").networks.flat().tolist() == [list(map(float, range(9, 18)))]


def test_a_file_that_cannot_be_replaced_stays(own_data: Path, tmp_path: Path) -> None:
    potential = load_potential(own_data / "nn_mode1.nn.dat")
    with pytest.raises(InputError, match="cannot write"):
        save_potential(potential, tmp_path / "missing" / "x.nn.dat")
    assert list(itertools.islice(tmp_path.iterdir(), 1)) == []


class TestUntrained:
    """Elements on which nothing was trained are a comment, after the energy shift."""

    @pytest.mark.parametrize("untrained", [(), ("C",), ("Si", "C")])
    @pytest.mark.parametrize("shift", [math.nan, 1.5])
    def test_round_trip(self, untrained: tuple[str, ...], shift: float, tmp_path: Path) -> None:
        potential = make_potential(("Si", "C"))
        potential = replace(potential, untrained=untrained, energy_shift=torch.full((2,), shift, dtype=torch.float64))
        save_potential(potential, tmp_path / "x.nn.dat")
        found = load_potential(tmp_path / "x.nn.dat")
        assert found.untrained == untrained
        assert torch.equal(found.networks.flat(), potential.networks.flat())
        assert torch.allclose(found.energy_shift, potential.energy_shift, equal_nan=True)

    def test_other_comments_say_nothing(self, tmp_path: Path) -> None:
        save_potential(make_potential(), tmp_path / "x.nn.dat")
        lines = (tmp_path / "x.nn.dat").read_text().splitlines()
        lines[2] += " of an untrained eye"
        (tmp_path / "x.nn.dat").write_text("\n".join(lines) + "\n")
        assert load_potential(tmp_path / "x.nn.dat").untrained == ()
