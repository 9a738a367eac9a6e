"""Uncertainty files: to the bit and back, beside their potential, and every fault."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from sample_sets import make_potential

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.opening import find_uncertainty
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, save_uncertainty, uncertainty_path
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import join_members
from pyfit_gpu.models.uncertainty import Uncertainty, parameter_checksum

NAMES = ("scale", "element", "n_atoms", "centers", "weight", "directions")
Load = Callable[[str], Uncertainty]


def sealed(text: str) -> str:
    """A text with its last line anew, so that the checksum is its own."""
    body = text[: text.rindex("end ")]
    return f"{body}end {zlib.crc32(body.encode()):08x}\n"


# Lines 1 to 16.
TEXT = sealed("""\
pyfit-gpu-uncertainty 1
potential 0001e240
elements Si C
inputs 2
begin grade
element Si 2
scale 0.5 0.25
cluster 30 1 9.5
center 1.5 -2.5
direction 3.0 0.125
cluster 4 0 9.25
center 0.5 1e-3
element C 0
scale 1.0 1.0
end grade
end 00000000
""")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str) -> Uncertainty:
        path = tmp_path / "si.uncertainty.txt"
        path.write_bytes(text.encode())
        return load_uncertainty(path)

    return load


def with_line(number: int, text: str) -> str:
    lines = TEXT.splitlines(keepends=True)
    lines[number - 1] = text and text + "\n"
    return sealed("".join(lines))


def made(n_inputs: int = 5) -> Uncertainty:
    rng = np.random.default_rng(0)
    directions = torch.from_numpy(rng.normal(size=(3, 4, n_inputs)))
    directions[1, 2:] = 0
    directions[2] = 0
    grade = ExtrapolationGrade(
        scale=torch.from_numpy(rng.uniform(1, 2, (2, n_inputs))),
        element=torch.tensor([0, 0, 1]),
        n_atoms=torch.tensor([7, 1, 20]),
        centers=torch.from_numpy(rng.normal(size=(3, n_inputs))),
        weight=torch.from_numpy(rng.uniform(1, 1e9, 3)),
        directions=directions,
    )
    return Uncertainty(0x00ABCDEF, ("Si", "C"), grade)


def test_to_the_bit_and_back(tmp_path: Path) -> None:
    expected = made()
    save_uncertainty(expected, tmp_path / "x.txt")
    found = load_uncertainty(tmp_path / "x.txt")
    assert (found.checksum, found.elements) == (expected.checksum, expected.elements)
    for name in NAMES:
        assert torch.equal(getattr(found.grade, name), getattr(expected.grade, name)), name


def test_what_the_lines_mean(load: Load) -> None:
    found = load(TEXT)
    assert found.checksum == 123456
    inputs = torch.tensor([[2.5, -2.0], [2.5, -2.0]], dtype=torch.float64)
    grade = found.grade(inputs, torch.tensor([0, 1]))
    assert grade[0].item() == pytest.approx((9.5 * (1 + 0.25) - (3 + 0.0625) ** 2) ** 0.5)
    assert grade[1] == torch.inf
    assert found.grade.n_atoms.tolist() == [30, 4]


def test_blanks_comments_and_line_ends(load: Load) -> None:
    lenient = sealed("# made by hand\n\n" + TEXT.replace("scale 0.5", "  scale\t0.5 "))
    lenient = "\ufeff" + lenient.replace("\n", "\r\n").rstrip()
    for name in NAMES:
        assert torch.equal(getattr(load(lenient).grade, name), getattr(load(TEXT).grade, name)), name


def test_sections_of_later_versions_are_passed_over(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    more = "begin charges\nmagic 1 2 x\nend grade\nend charges\n"
    with caplog.at_level(logging.INFO):
        found = load(sealed(TEXT.replace("begin grade\n", more + "begin grade\n")))
    assert torch.equal(found.grade.centers, load(TEXT).grade.centers)
    assert "line 5: the section charges is not known and passed over" in caplog.text


FAULTS = {
    "another file": (
        with_line(1, "3 0.5 1"),
        "line 1: expected an uncertainty file, which begins with .*found '3 0.5 1'",
    ),
    "later version": (with_line(1, "pyfit-gpu-uncertainty 2"), "line 1: expected version 1 of the format"),
    "checksum": (
        with_line(2, "potential 1e240"),
        "line 2: expected 'potential' and a checksum of 8 hexadecimal digits",
    ),
    "elements": (with_line(3, "elements Si Si"), "line 3: expected 'elements' and different chemical symbols"),
    "no elements": (with_line(3, "elements"), "line 3: expected 'elements' and different"),
    "inputs": (with_line(4, "inputs 0"), "line 4: expected 'inputs' and their number, from 1"),
    "inputs, no number": (with_line(4, "inputs x"), "line 4: expected 'inputs' and their number"),
    "section": (with_line(5, "grade"), "line 5: expected 'begin' and the name of a section, or .*, found 'grade'"),
    "order of elements": (with_line(6, "element C 2"), "line 6: expected 'element' and the symbol Si"),
    "number of clusters": (
        with_line(6, "element Si -1"),
        "line 6: expected 'element' and the symbol Si and its number",
    ),
    "too many clusters": (with_line(6, "element Si 9999999"), "line 6: expected at most 1000000 clusters"),
    "fewer clusters": (with_line(6, "element Si 3"), "line 13: expected 'cluster' and numbers"),
    "more clusters": (with_line(6, "element Si 1"), "line 11: expected 'element' and the symbol C"),
    "scale": (with_line(7, "scale 0.5 0.0"), "line 7: expected 'scale' and 2 numbers above 0"),
    "too few numbers": (with_line(9, "center 1.5"), "line 9: expected 2 numbers"),
    "too many numbers": (with_line(9, "center 1.5 2 3"), "line 9: expected 2 numbers"),
    "NaN": (with_line(9, "center 1.5 nan"), "line 9: expected 2 numbers"),
    "infinite": (with_line(10, "direction inf 1.0"), "line 10: expected 2 numbers"),
    "weight": (with_line(8, "cluster 30 1 -9.5"), "line 8: expected 'cluster' and .*a weight above 0"),
    "no weight": (with_line(8, "cluster 30 1"), "line 8: expected 1 number"),
    "more directions than inputs": (with_line(8, "cluster 30 3 9.5"), "line 8: expected 'cluster' .*at most 2"),
    "missing direction": (with_line(10, ""), "line 10: expected 'direction' and 2 numbers, found 'cluster 4 0 9.25'"),
    "end of the section": (with_line(15, "end error-bars"), "line 15: expected 'end grade'"),
    "no grade": (
        sealed(re.sub("begin grade.*end grade\n", "", TEXT, flags=re.DOTALL)),
        "line 5: expected a section 'grade'",
    ),
    "grade twice": (
        TEXT[: TEXT.rindex("end ")] + TEXT.split("\n", 4)[4],
        "line 16: expected one section of this name",
    ),
    "more after the end": (TEXT + "end\n", "line 17: expected the end of the file after 'end'"),
    "no cluster at all": (
        with_line(6, "element Si 0").replace(TEXT[TEXT.index("cluster 30") : TEXT.index("element C")], ""),
        "line 10: expected a cluster of one of the elements",
    ),
    "binary": (TEXT.replace("9.5", "9\0"), "expected an uncertainty file, found binary data"),
    "empty": ("", "empty: expected 'pyfit-gpu-uncertainty 1', found the end of the file"),
    "no last line": (TEXT[: TEXT.rindex("end ")], "cut off after line 15: expected 'begin' .*, found the end"),
    "no checksum": (TEXT[:-10] + "\n", "line 16: expected .* or 'end' and a checksum of 8 hexadecimal digits"),
    "a changed digit": (TEXT.replace("9.25", "9.35"), "damaged: its content does not have the checksum"),
    "a changed comment": (sealed("# a\n" + TEXT).replace("# a", "# b"), "damaged: its content does not have"),
    "a changed checksum": (TEXT[:-9] + "00000000\n", "damaged: its content does not have the checksum"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(load: Load, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(InputError, match=rf"si\.uncertainty\.txt.*{message}"):
        load(text)


def test_cut_anywhere(load: Load) -> None:
    for length in range(len(TEXT) - 1):
        with pytest.raises(InputError, match=r"si\.uncertainty\.txt"):
            load(TEXT[:length])


def test_names_beside_potentials() -> None:
    names = {
        "a/fit.nn.dat": "a/fit.uncertainty.txt",
        "a/fit.run.h5": "a/fit.uncertainty.txt",
        "fit.m001.nn.dat": "fit.m001.uncertainty.txt",
        "fit.dat": "fit.uncertainty.txt",
        "run.h5": "run.uncertainty.txt",
        ".run.h5": ".run.h5.uncertainty.txt",
    }
    assert {name: str(uncertainty_path(name)) for name in names} == names


def test_checksum_is_that_of_the_numbers_in_the_files(tmp_path: Path) -> None:
    """Numbers of several members follow one another, as another program would read them."""
    members = [make_potential(seed=1), make_potential(seed=2)]
    numbers: list[float] = []
    for number, member in enumerate(members):
        path = tmp_path / f"{number}.nn.dat"
        save_potential(member, path)
        numbers += [float(line.split()[0]) for line in path.read_text().splitlines()[8:]]
    assert parameter_checksum(join_members(members)) == zlib.crc32(np.array(numbers, dtype="<f8").tobytes())


def test_checksum_of_bond_order_parameters() -> None:
    """A baseline counts; of a bare potential it does not matter what stands in it and what in the biases."""
    informed, bare = make_bond_order(), make_bond_order(bare=True)
    numbers = bare.bond_order_parameters
    other = replace(informed, bond_order_parameters=(9.0, *numbers[1:]))
    assert parameter_checksum(informed) != parameter_checksum(other)
    biases = replace(bare.networks, biases=(torch.tensor(numbers, dtype=torch.float64).view(1, 1, -1),))
    moved = replace(bare, networks=biases, bond_order_parameters=(0.0,) * len(numbers))
    assert parameter_checksum(bare) == parameter_checksum(moved)
    assert parameter_checksum(bare) == zlib.crc32(np.array(numbers, dtype="<f8").tobytes())


@pytest.mark.parametrize(
    ("elements", "settings", "message"),
    [
        (("Si",), {}, "expected the elements Si of the potential, found Si, C"),
        (("Si", "C"), {"legendre_orders": (0, 2, 3)}, "expected 27 inputs as the potential has, found 18"),
        (("Si", "C"), {"seed": 5}, "belongs to another potential: expected the checksum [0-9a-f]{8} .*found 00abcdef"),
    ],
)
def test_another_potential(elements: tuple[str, ...], settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"x.txt: {message}"):
        made(18).check(make_potential(elements, **settings), "x.txt")


class TestBeside:
    """The file beside a potential's is found; one that cannot be used is named and left alone."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        save_potential(make_potential(("Si", "C")), tmp_path / "fit.nn.dat")
        return tmp_path / "fit.nn.dat"

    def test_none(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert find_uncertainty(path, load_potential(path)) is None
        assert not caplog.records

    def test_found(self, path: Path) -> None:
        potential = load_potential(path)
        save_uncertainty(Uncertainty.of(potential, made(18).grade), uncertainty_path(path))
        for given in (path, [path]):
            found = find_uncertainty(given, potential)
            assert found is not None
            assert found.checksum == parameter_checksum(potential)

    def test_of_an_earlier_potential(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        save_uncertainty(made(18), uncertainty_path(path))
        assert find_uncertainty(path, load_potential(path)) is None
        assert re.search(r"no uncertainties: .*fit\.uncertainty\.txt: belongs to another potential", caplog.text)
