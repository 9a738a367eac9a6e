"""Cross terms and triples on the line of Legendre orders: to the file and back, and every fault."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.data import chemical_symbols
from sample_sets import make_potential

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential, save_draft, save_potential
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.models.potential import Potential

Load = Callable[..., Potential]

TERMS = "4 0 1 2 3 1 2 1 1 2 1 2 3"
# 4 orders x (3 + 2) pairs of Gaussians, and 2 triples x 3 centres.
HEADER = """\
 6 0.0 1
 1
 Si 28.0855
 1 0.25 4.5 1.0 0.8
 {}
 3 1.5 2.5 3.5
 0 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85
 3 {} 2 1
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The potential of a header with this line of terms and number of inputs."""

    def load(terms: str = TERMS, n_inputs: int = 26, header: str = HEADER) -> Potential:
        path = tmp_path / "si.nn.dat"
        path.write_text(header.format(terms, n_inputs))
        return load_potential(path, seed=1)

    return load


def test_what_is_read(load: Load) -> None:
    found = load().descriptor
    assert (found.legendre_orders, found.cross_terms) == ((0, 1, 2, 3), 1)
    assert found.triples == ((1, 1, 2), (1, 2, 3))


@pytest.mark.parametrize("comment", [" - a comment, 3 words 1.5", " # 7", " Gi version"])
def test_a_comment(load: Load, comment: str) -> None:
    assert load(TERMS + comment).descriptor == load().descriptor


@pytest.mark.parametrize("elements", [("Si",), ("C", "Si"), ("C", "Si", "Ge")])
@pytest.mark.parametrize(("cross_terms", "triples"), [(0, ()), (2, ()), (0, ((0, 0, 0),)), (1, ((2, 2, 2), (0, 2, 2)))])
def test_round_trip(
    elements: tuple[str, ...], cross_terms: int, triples: tuple[tuple[int, int, int], ...], tmp_path: Path
) -> None:
    potential = make_potential(elements, gi_mode=6, cross_terms=cross_terms, triples=triples)
    save_potential(potential, tmp_path / "nn.dat")
    found = load_potential(tmp_path / "nn.dat")
    assert found.descriptor == potential.descriptor
    assert found.networks.flat().equal(potential.networks.flat())


def test_random_settings_survive(tmp_path: Path) -> None:
    draw = random.Random(5)
    for _ in range(40):
        orders = draw.sample(range(20), draw.randint(1, 8))
        possible = [
            (a, b, c)
            for a in orders for b in orders for c in orders
            if a <= b <= c <= a + b and (a + b + c) % 2 == 0
        ]  # fmt: skip
        triples = draw.sample(possible, min(len(possible), draw.randint(0, 6)))
        centers = [1.0 + 0.25 * k for k in range(draw.randint(1, 6))]
        potential = new_potential(
            ["Si", "C", "O"][: draw.randint(1, 3)], 5.0, legendre_orders=orders, triples=triples,
            gaussian_centers=centers, cross_terms=draw.randrange(len(centers)), hidden=[2],
        )  # fmt: skip
        save_draft(potential, tmp_path / "nn.dat")
        assert load_potential(tmp_path / "nn.dat", seed=1).descriptor == potential.descriptor


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("4 0 1 2 3", "then c, the greatest distance of two Gaussians, found '4 0 1 2 3'"),
        ("4 0 1 2 3 x", "then c.*found '4 0 1 2 3 x'"),
        ("4 0 1 2 3 0.5 0", "then c.*found '4 0 1 2 3 0.5 0'"),
        ("4 0 1 2 3 1", "after c the number of triples.*found '4 0 1 2 3 1'"),
        ("4 0 1 2 3 1 0.5", "after c the number of triples.*found"),
        ("4 0 1 2 3 1 -1", "after c the number of triples.*found"),
        ("4 0 1 2 3 1 2 1 1 2 1 2", "after c the number of triples.*: 6 for 2 triples, found"),
        ("4 0 1 2 3 1 2 1 1 2 1 2 3 2 2 2", "after c the number of triples.*: 6 for 2 triples, found"),
        ("4 0 1 2 3 1 2 1 1 2 1 2 - 3", "after c the number of triples.*found"),
        ("4 0 1 2 3 1 2 1 1 2 1 2 - three", "whole numbers, found"),
        ("4 0 1 2 3 1 2 1 1 2 1 2 2.5", "whole numbers, found"),
        ("4 0 1 2 3 1 1000000000000000000000 1 1 2", "for 1000000000000000000000 triples, found"),
        ("4 0 1 2 3 1 1e300 1 1 2", "for 1[0-9]* triples, found"),
        ("4 0 1 2 3 -1 0", "cross_terms: expected a whole number from 0 to 2 .*got -1"),
        ("4 0 1 2 3 3 0", "cross_terms: expected a whole number from 0 to 2 .there are 3 Gaussian centres.*got 3"),
        ("4 0 1 2 3 1e300 0", "cross_terms: expected a whole number from 0 to 2 .*got 1"),
        ("4 0 1 2 3 1 1 1 2 2", "triples: triple 1, 1 2 2: the sum of the orders, 5, is odd"),
        ("4 0 1 2 3 1 1 1 1 4", r"triples: triple 1, 1 1 4: order 4 is not one of the Legendre orders \(0, 1, 2, 3\)"),
        ("4 0 1 2 3 1 1 -1 1 2", "triples: triple 1, -1 1 2: order -1 is not one"),
        ("4 0 1 2 3 1 1 2 1 1", "triples: triple 1, 2 1 1: expected ascending orders"),
        ("4 0 1 2 3 1 1 0 1 3", "triples: triple 1, 0 1 3: 3 is above 0 . 1"),
        ("4 0 1 2 3 1 3 1 1 2 2 2 2 1 1 2", "triples: triple 3, 1 1 2: it is there twice"),
        ("4 0 1 2 61 1 0", "legendre_orders: expected whole numbers from 0 to 60"),
        ("1000000000000 0 1 2 3 1 0", "Legendre orders: .*: 1000000000000 numbers after the first, found"),
    ],
)
def test_refused(load: Load, terms: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"si\.nn\.dat, line 5: .*{message}"):
        load(terms)


def test_another_number_of_inputs(load: Load) -> None:
    message = r"line 8: expected 26 inputs as the first layer .*4 Legendre orders, 3 Gaussian centres, c 1, 2 triples"
    with pytest.raises(InputError, match=message):
        load(n_inputs=12)


def test_other_modes_take_what_follows_for_a_comment(load: Load) -> None:
    found = load(n_inputs=12, header=HEADER.replace(" 6", " 5", 1)).descriptor
    assert (found.gi_mode, found.cross_terms, found.triples) == (5, 0, ())


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_a_line_of_absurd_length(load: Load, count: int) -> None:
    """Neither a hang nor a word about memory."""
    started = time.perf_counter()
    with pytest.raises(InputError, match="twice"):
        load(f"4 0 1 2 3 1 {count} " + "1 1 2 " * count)
    with pytest.raises(InputError, match=f"expected {count * 5} inputs"):
        load(f"{count} " + "7 " * count + "1 0")
    assert time.perf_counter() - started < 20


def test_random_damage(load: Load) -> None:
    """Whatever stands there: a potential whose numbers are those of the line, or a message."""
    draw = random.Random(8)
    words = ["0", "1", "2", "3", "-1", "1.5", "x", "1e9", "61", "nan", "", "2 2", "99999999999999999999"]
    n_read, messages = 0, []
    for _ in range(600):
        cells = TERMS.split()
        for _ in range(draw.randint(1, 3)):
            cells[draw.randrange(len(cells))] = draw.choice(words)
        if draw.random() < 0.3:
            del cells[draw.randrange(len(cells)) :]
        try:
            found = load(" ".join(cells) or "-").descriptor
        except InputError as error:
            messages.append(str(error))
            continue
        n_read += 1
        assert numbers_of(found) == [int(cell) for cell in " ".join(cells).split()][: len(numbers_of(found))]
    assert n_read > 0
    assert all("si.nn.dat, line " in message for message in messages)


def numbers_of(found: LocalStructureParameters) -> list[int]:
    numbers = [len(found.legendre_orders), *found.legendre_orders, found.cross_terms, len(found.triples)]
    return numbers + [order for triple in found.triples for order in triple]


def test_a_draft_that_could_not_be_loaded(tmp_path: Path) -> None:
    symbols = [chemical_symbols[number] for number in range(1, 31)]
    path = tmp_path / "many.nn.dat"
    with pytest.raises(
        InputError, match=r"many\.nn\.dat: expected .* at most 10000000 .*153915-24-24-1 for each of 30"
    ):
        save_draft(new_potential(symbols, 5.0), path)
    assert not path.exists()
    save_draft(new_potential(symbols, 5.0, hidden=[2]), path)
    assert load_potential(path, seed=1).descriptor.n_features == 153915
