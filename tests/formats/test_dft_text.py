"""POSCAR structures with energies: everything that the format allows, and what we write."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pair_sum
import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.dft_text_writer import write_dft_text
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]
Read = Callable[[str | bytes], list[Frame]]

GOOD = """\
Si_B1 first of two
1.0
4.0 0.0 0.0
0.5 4.0 0.0
0.0 0.0 5.0
2
cartesian
0.0 0.0 0.0
1.5 1.0 1.25
-10.5
"""
OTHER = GOOD.replace("Si_B1", "Si_B2")


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """All structures of a file with the given content."""

    def read(content: str | bytes) -> list[Frame]:
        path = tmp_path / "si.dat"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_dft_text(path))

    return read


def structure(atoms: str, *, count: str = "2", kind: str = "c", scale: str = "1.0", energy: str = "-1.0") -> str:
    return f"made\n{scale}\n2 0 0\n0 3 0\n0 0 5\n{count}\n{kind}\n{atoms}\n{energy}\n"


def same(found: Frame, expected: Frame) -> None:
    """All but the source, to the bit."""
    for name, value in vars(expected).items():
        if name == "source":
            continue
        if isinstance(value, np.ndarray):
            assert getattr(found, name).dtype == value.dtype
            assert getattr(found, name).tobytes() == value.tobytes(), name
        else:
            assert getattr(found, name) == value, name


def test_a_plain_structure(read: Read, tmp_path: Path) -> None:
    first, second = read(GOOD + OTHER)
    np.testing.assert_array_equal(first.positions, [[0, 0, 0], [1.5, 1.0, 1.25]])
    np.testing.assert_array_equal(first.cell, [[4, 0, 0], [0.5, 4, 0], [0, 0, 5]])
    assert first.pbc.tolist() == [True] * 3
    assert first.atomic_numbers.tolist() == [0, 0]
    assert (first.group, second.group) == ("Si_B1", "Si_B2")
    assert (first.energy, first.forces, first.stress, first.weight) == (-10.5, None, None, 1.0)
    assert first.source == f"{tmp_path / 'si.dat'}, structure 1 (line 1)"
    assert second.source == f"{tmp_path / 'si.dat'}, structure 2 (line 11)"


def test_our_own_data_against_another_reader(own_data: Path) -> None:
    path = own_data / "structures.poscar.dat"
    frames, expected = list(read_dft_text(path)), pair_sum.read_poscar_dat(path)
    assert len(frames) == len(expected) == 34
    for found, other in zip(frames, expected, strict=True):
        np.testing.assert_allclose(found.positions, other.positions, rtol=1e-15, atol=1e-15)
        np.testing.assert_allclose(found.cell, other.cell, rtol=1e-15, atol=0)
        assert found.energy == other.energy
        assert found.group == other.label.split()[0]


@pytest.mark.parametrize(
    "content",
    [
        (GOOD + OTHER).replace("\n", "\r\n"),
        (GOOD + OTHER).replace(" ", "\t"),
        "\n".join(f"  {line.replace(' ', '   ')}\t " for line in (GOOD + OTHER).splitlines()),
        (GOOD + OTHER).rstrip("\n"),
        (GOOD + OTHER) + "\n \n\t\n",
        "\n\n" + GOOD + "\n  \n\t\n" + OTHER,
    ],
    ids=["CRLF", "tabs", "blanks", "no final newline", "empty lines at the end", "empty lines between"],
)
def test_white_space(read: Read, content: str) -> None:
    plain, found = read(GOOD + OTHER), read(content)
    assert len(found) == 2
    for one, other in zip(found, plain, strict=True):
        same(one, other)


@pytest.mark.parametrize("kind", ["c", "C", "k", "K", "cart", "carestian or direct (scaled), only the first matters"])
def test_cartesian_is_scaled(read: Read, kind: str) -> None:
    (frame,) = read(structure("0 0 0\n0.5 1 2", scale="2.0", kind=kind))
    np.testing.assert_array_equal(frame.positions[1], [1, 2, 4])
    np.testing.assert_array_equal(frame.cell, np.diag([4, 6, 10]))


@pytest.mark.parametrize("kind", ["d", "D", "Direct"])
def test_direct(read: Read, kind: str) -> None:
    (frame,) = read(structure("0 0 0\n0.5 0.5 -0.25", scale="2.0", kind=kind).replace("0 3 0", "1 3 0"))
    np.testing.assert_array_equal(frame.cell, [[4, 0, 0], [2, 6, 0], [0, 0, 10]])
    np.testing.assert_allclose(frame.positions[1], [3, 3, -2.5])


def test_negative_scale_is_the_volume(read: Read) -> None:
    content = structure("0 0 0\n0.5 1 2", scale="-240") + structure("0 0 0\n.5 .5 .5", kind="d", scale="-240")
    cartesian, direct = read(content)
    for frame in (cartesian, direct):
        np.testing.assert_allclose(frame.cell, np.diag([4, 6, 10]), rtol=1e-14)
    np.testing.assert_allclose(cartesian.positions[1], [1, 2, 4], rtol=1e-14)
    np.testing.assert_allclose(direct.positions[1], [2, 3, 5], rtol=1e-14)


def test_vasp_5(read: Read) -> None:
    (frame,) = read(structure("0 0 0\n0 0 1\n0 0 2", count="C  Si\n 2 1"))
    assert frame.atomic_numbers.tolist() == [6, 6, 14]
    atoms = "0 0 0 1 2 3\n0 0 1 Si 1 2 3"  # what the atoms' own lines leave out, the header says
    (one,) = read(structure(atoms, count="Si\n2"))
    assert one.atomic_numbers.tolist() == [14, 14]
    assert one.forces is not None


def test_selective_dynamics(read: Read) -> None:
    atoms = "0 0 0 T T F\n0 0 1 F .TRUE. t C 1 2 3"
    (frame,) = read(structure(atoms, kind="Selective dynamics\ndirect"))
    np.testing.assert_array_equal(frame.positions, [[0, 0, 0], [0, 0, 5]])
    assert frame.atomic_numbers.tolist() == [0, 6]
    assert frame.forces is None


@pytest.mark.parametrize("symbol", ["C", "'C'", '"C"'])
def test_symbols_of_atoms(read: Read, symbol: str) -> None:
    (frame,) = read(structure(f"0 0 0 Si\n0 0 1 {symbol}"))
    assert frame.atomic_numbers.tolist() == [14, 6]
    np.testing.assert_array_equal(frame.positions, [[0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("forces", ["", " 1 2 3"])
@pytest.mark.parametrize("quotes", range(9))
def test_symbols_in_many_quotes(read: Read, quotes: int, forces: str) -> None:
    """A long word is never cut: seven quotes and Si would be sulfur."""
    symbol = "'" * quotes + "Si" + "'" * quotes
    (frame,) = read(structure(f"0 0 0 {symbol}{forces}\n0 0 1 {symbol}{forces}"))
    assert frame.atomic_numbers.tolist() == [14, 14]


@pytest.mark.parametrize("symbols", [("", ""), ("Si", "C")])
def test_forces_are_never_scaled(read: Read, symbols: tuple[str, str]) -> None:
    atoms = f"0 0 0 {symbols[0]} 1 2 3\n.5 .5 .5 {symbols[1]} -1 -2e-1 0.25"
    (frame,) = read(structure(atoms, scale="2.0", kind="direct"))
    assert frame.forces is not None
    np.testing.assert_array_equal(frame.forces, [[1, 2, 3], [-1, -0.2, 0.25]])


@pytest.mark.parametrize("atoms", ["0 0 0 1 2 3\n0 0 1", "0 0 0 Si\n0 0 1 Si 1 2 3"])
def test_forces_of_some_atoms_do_not_count(read: Read, atoms: str) -> None:
    (frame,) = read(structure(atoms))
    assert frame.forces is None


def test_structures_without_an_energy(read: Read) -> None:
    content = GOOD.replace("Si_B1", "NO_DFT_x") + GOOD.replace("Si_B1", "NO_DFT") + GOOD.replace("Si_B1", "ISOLATED")
    frames = read(content)
    assert [frame.energy for frame in frames] == [None, None, -10.5]
    assert [frame.group for frame in frames] == ["NO_DFT_x", "NO_DFT", "ISOLATED"]
    with pytest.raises(InputError, match=r"si\.dat, line 9, structure 1 \(NO_DFT_x\).*energy.*end of the file"):
        read(content[: content.index("-10.5")])  # its last line is ignored, but there


@pytest.mark.parametrize("label", ["Si_B1 weight=0.25", "Si_B1 some words weight=0.25"])
def test_weight(read: Read, label: str) -> None:
    (frame,) = read(GOOD.replace("Si_B1 first of two", label))
    assert (frame.group, frame.weight) == ("Si_B1", 0.25)


def test_structures_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "si.dat"
    path.write_text(GOOD + "Si_B2\nbroken\n")
    frames = read_dft_text(path)
    assert next(frames).group == "Si_B1"
    with pytest.raises(InputError, match="line 12, structure 2"):
        next(frames)


@pytest.fixture
def awkward(random_frame: MakeFrame) -> Frame:
    """Numbers that lose bits with fewer than 17 digits, and a minus zero."""
    frame = random_frame(
        3, 4, elements=("Si", "C"), energy=-1e3 / 3, forces=np.random.default_rng(0).normal(size=(4, 3))
    )
    frame.positions[0] = [0.1 + 0.2, -0.0, 1e-17 / 3]
    return frame


def written(*frames: Frame) -> str:
    file = io.StringIO()
    write_dft_text(file, frames)
    return file.getvalue()


@pytest.mark.parametrize("changes", [{}, {"forces": None}, {"weight": 0.1}, {"weight": np.float64(0.1)}], ids=str)
def test_round_trip(read: Read, awkward: Frame, changes: dict[str, object]) -> None:
    frame = replace(awkward, **changes)
    nameless = replace(frame, atomic_numbers=np.zeros(4, dtype=np.int64))
    first, second = read(written(frame, nameless))
    same(first, frame)
    same(second, nameless)


def test_written_text_is_the_classic_form(awkward: Frame) -> None:
    (found,) = [pair_sum._read_poscar(rows[0], iter(rows[1:]), "Si") for rows in [written(awkward).splitlines()]]
    assert found.positions.tobytes() == awkward.positions.tobytes()
    assert found.energy == awkward.energy
    assert found.forces is not None
    assert found.forces.tobytes() == awkward.forces.tobytes()


def test_without_an_energy_it_becomes_no_dft(read: Read, awkward: Frame) -> None:
    first, second = read(written(replace(awkward, energy=None), replace(awkward, energy=None, group="NO_DFT_x")))
    assert (first.energy, first.group) == (None, "NO_DFT_made")
    assert (second.energy, second.group) == (None, "NO_DFT_x")
    same(replace(first, group="made"), replace(awkward, energy=None))


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_only_periodic_structures_can_be_written(awkward: Frame, pbc: tuple[bool, bool, bool]) -> None:
    with pytest.raises(InputError, match=r"made\.dat, structure 1 .*periodic"):
        written(replace(awkward, pbc=np.array(pbc)))


@pytest.mark.parametrize("group", ["", "two words", " padded", "NO_DFT_with_energy"])
def test_a_label_that_would_not_survive_is_refused(awkward: Frame, group: str) -> None:
    """The first word is the group, an empty label cannot be read, and NO_DFT would hide the energy."""
    with pytest.raises(InputError, match=r"made\.dat, structure 1 .*group"):
        written(replace(awkward, group=group))
