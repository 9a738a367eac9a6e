"""Extended XYZ: numbers are those that ASE reads, to the bit, and what ASE passes over is an error or is named."""

# mypy: allow-untyped-calls
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from frame_samples import assert_same, frame

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.dft_inputs import summarize
from pyfit_gpu.formats.extxyz.reader import looks_like_extxyz, read_extxyz
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.structures.frames import Frame, StructureSummary

LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
FORCES = "Properties=species:S:1:pos:R:3:forces:R:3"
TWO = (
    f'2\n{LATTICE} {FORCES} energy=-10.8400 stress="1 0 0 0 1 0 0 0 1" group=a\n'
    "Si 0.0000 0.0000 0.0000 0.1000 0.0000 0.0000\nC 1.3500 1.3500 1.3500 -0.1000 0.0000 0.0000\n"
    f"1\n{LATTICE} {FORCES} energy=-5.1000 weight=2\nSi 0.2500 0.5000 0.7500 0.0100 0.0200 0.0300\n"
)


def read(path: Path, options: ReadOptions | None = None) -> list[Frame]:
    return [one for one in read_extxyz(path, options) if isinstance(one, Frame)]


def outcome(path: Path, *, as_summaries: bool) -> list[Frame] | list[StructureSummary] | None:
    """Structures of a file; None: it is refused, by its name."""
    try:
        return summaries(path) if as_summaries else read(path)
    except InputError as error:
        if str(path) not in str(error):
            raise
        return None


def summaries(path: Path) -> list[StructureSummary]:
    found = list(read_extxyz(path, wanted=lambda number: False))
    return [one for one in found if isinstance(one, StructureSummary)]


def text(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.xyz"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def xyz(folder: Path, comment: str, atoms: str = "Si 0 0 0\n") -> Path:
    return text(folder, f"{atoms.count(chr(10))}\n{comment}\n{atoms}")


def assert_read_as_ase_does(path: Path) -> None:
    """Positions, cell, periodicity, elements and labels have the same bits; the summaries are those of the frames."""
    expected = ase.io.read(path, ":", format="extxyz")
    found = read(path)
    assert len(found) == len(expected)
    for one, atoms in zip(found, expected, strict=True):
        results = atoms.calc.results if atoms.calc else {}
        np.testing.assert_array_equal(one.positions, atoms.positions)
        np.testing.assert_array_equal(one.cell, atoms.cell.array)
        np.testing.assert_array_equal(one.pbc, atoms.pbc)
        np.testing.assert_array_equal(one.atomic_numbers, atoms.numbers)
        assert one.energy == results.get("free_energy", results.get("energy"))
        for name in ("forces", "stress"):
            assert (getattr(one, name) is None) == (name not in results)
            if name in results:
                np.testing.assert_array_equal(getattr(one, name), results[name])
    for summary, one in zip(summaries(path), found, strict=True):
        assert summary == summarize(one)
        assert (summary.has_forces, summary.unread) == (one.forces is not None, one.unread)


# --- what ASE writes


def random_atoms(random: np.random.Generator) -> Atoms:
    n = int(random.choice([1, 1, 2, 3, 7]))
    pbc = random.integers(0, 2, 3).astype(bool)
    atoms = Atoms(random.choice(["H", "C", "Si", "Og", "X"], n), random.normal(size=(n, 3)) * 10, pbc=pbc)
    if random.random() < 0.8:
        atoms.cell = random.normal(size=(3, 3)) + 5 * np.eye(3)
    results: dict[str, Any] = {
        "energy": random.normal() * 1e3,
        "free_energy": random.normal(),
        "forces": random.normal(size=(n, 3)) * 10.0 ** random.integers(-9, 9),
        "stress": random.normal(size=6),
        "magmoms": random.normal(size=n),
        "dipole": random.normal(size=3),
    }
    kept = {name: value for name, value in results.items() if random.random() < 0.5}
    if kept:
        atoms.calc = SinglePointCalculator(atoms, **kept)
    info: dict[str, Any] = {
        "an integer": int(random.integers(-9, 9)),
        "real": random.normal(),
        "truth": bool(random.integers(2)),
        "word": "bulk",
        "sentence": 'say "a=1", it\'s [2] {3} \\ done',
        "list": [1, 2, 3],
        "matrix": random.normal(size=(3, 3)),
        "words": ["a b", "c"],
        "nested": {"a": [1, {"b": None}]},
        "Å": "ß",
        "none": None,
    }
    atoms.info = {name: value for name, value in info.items() if random.random() < 0.5}
    columns = {
        "tags": random.integers(0, 3, n),
        "width": random.normal(size=n),
        "flag": random.integers(0, 2, n).astype(bool),
        "label": random.choice(["a", "bc"], n),
        "velocity": random.normal(size=(n, 3)),
    }
    for name, value in columns.items():
        if random.random() < 0.4:
            atoms.set_array(name, value)
    return atoms


@pytest.mark.parametrize("seed", range(40))
def test_what_ase_writes(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    ase.io.write(tmp_path / "a.xyz", [random_atoms(random) for _ in range(8)], format="extxyz")
    assert_read_as_ase_does(tmp_path / "a.xyz")


def test_an_empty_text_swallows_no_label(tmp_path: Path) -> None:
    """ASE writes `empty= energy=-3.0`, and reads it back without an energy."""
    atoms = Atoms("Si", info={"empty": ""}, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    assert ase.io.read(tmp_path / "a.xyz").calc is None
    (found,) = read(tmp_path / "a.xyz")
    assert (found.energy, found.pbc.all(), found.unread) == (-3.0, True, ("key empty",))


def test_what_we_write(tmp_path: Path) -> None:
    write_extxyz(tmp_path / "a.xyz", [frame(group=word) for word in ("a", "T", "001", "b c", 'q"')])
    assert_read_as_ase_does(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "water, from a book",
        "a = 3, b = 4",
        LATTICE,
        "Lattice='4 0 0 0 4 0 0 0 4'",
        "Lattice = {4 0 0 0 4 0 0 0 4}",
        "Lattice=[4,0,0,0,4,0,0,0,4]",
        'Lattice="4 0.5 0 -0.25 4 1e-3 +0 .5 4."',
        *(
            f"{LATTICE} pbc={pbc}"
            for pbc in ('"T F T"', "[T,F,T]", "[True,False,True]", '"1 0 1"', "[true,false,true]")
        ),
        'pbc="F F F"',
        f"{LATTICE} energy = -3.25",
        f"{LATTICE}\tenergy\t=\t-3.25\t",
        f"  {LATTICE}   energy=-3.25  ",
        f"{LATTICE} energy=-3",
        f"{LATTICE} free_energy=-3.25 energy=-3",
        f'{LATTICE} stress="1 6 5 6 2 4 5 4 3"',
    ],
)
def test_comments_that_ase_reads(tmp_path: Path, comment: str) -> None:
    assert_read_as_ase_does(xyz(tmp_path, comment, "Si 0 0.5 1e-3\nC -1. +2 .5\n"))


@pytest.mark.parametrize(
    ("properties", "row"),
    [
        ("species:S:1:pos:R:3", "Si 1 2 3"),
        ("species:S:1:pos:R:3", "\t si\t1  2 \t 3  "),
        ("species:S:1:pos:R:3", "SI 1 2 3"),
        ("pos:R:3:species:S:1", "1 2 3 Si"),
        ("Z:I:1:pos:R:3", "14 1 2 3"),
        ("id:I:1:species:S:1:pos:R:3:fixed:L:1:name:S:2:forces:R:3", "7 Si 1 2 3 T a b 0.1 0.2 0.3"),
        ("species:S:1:pos:R:3:forces:R:3", "X 1 2 3 0.1 -0.0 1e-320"),
    ],
)
def test_columns_that_ase_reads(tmp_path: Path, properties: str, row: str) -> None:
    assert_read_as_ase_does(xyz(tmp_path, f"{LATTICE} Properties={properties} energy=-1", f"{row}\n{row}\n"))


# --- what else is read


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.replace(b"\n", b"\r"),
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: b"\n \n\t\n" + raw.replace(b"\n1\n", b"\n\n \n1\n") + b"\n\n \n",
        lambda raw: raw.replace(b" ", b"\t"),
        lambda raw: raw.replace(b" ", b"   "),
        lambda raw: raw.replace(b"\n", b" \n"),
        lambda raw: raw.removesuffix(b"\n"),
        lambda raw: raw.replace(b"Lattice", b"lattice").replace(b"Properties", b"PROPERTIES"),
        lambda raw: raw.replace(b"Lattice=", b"LATTICE = ").replace(b"Properties", b"properties"),
        lambda raw: raw.replace(b"energy", b"Energy").replace(b"group", b"Config_type").replace(b"weight", b"WEIGHT"),
        lambda raw: raw.replace(b"energy", b"REF_energy").replace(b"forces", b"force_dft"),
        lambda raw: raw.replace(b"forces", b"force").replace(b"energy", b"dft_energy"),
    ],
    ids=["crlf", "cr", "bom", "blank lines", "tabs", "blanks", "blanks at the ends", "no last line end", "lower case",
         "upper case", "labels in any case", "REF_", "force"],
)  # fmt: skip
def test_the_same_in_other_dress(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    raw = change(TWO.encode())
    assert raw != TWO.encode()
    plain = read(text(tmp_path, TWO))
    path = text(tmp_path, raw)
    for got, expected in zip(read(path), plain, strict=True):
        assert_same(got, expected)
        assert got.unread == ()
    for summary, expected in zip(summaries(path), plain, strict=True):
        assert summary == summarize(expected)


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.xyz.{ending}"
    path.write_bytes(compress(TWO.encode()))
    for got, expected in zip(read(path), read(text(tmp_path, TWO)), strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_damaged_archives(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.xyz.{ending}"
    raw = compress((TWO * 300).encode())
    middle = len(raw) // 2
    damaged = raw[:middle] + bytes(255 - byte for byte in raw[middle : middle + 9]) + raw[middle + 9 :]
    for content in (raw[:-9], raw[:middle], damaged, b"no archive", TWO.encode()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.xyz\.{ending}: cannot read: .*damaged, or not compressed"):
            read(path)


def test_a_plain_file_with_more_columns(tmp_path: Path) -> None:
    (found,) = read(xyz(tmp_path, "energy=-3", "O 0 0 0 0.1 0.2\nH 1 0 0 0.3 0.4\n"))
    assert (found.energy, found.unread) == (-3, ("column 5 and more",))
    assert not found.cell.any()
    assert not found.pbc.any()


def test_elements_that_are_not_named(tmp_path: Path) -> None:
    for properties, row in (("pos:R:3", "0 0 0"), ("Z:I:1:pos:R:3", "0 0 0 0"), ("species:S:1:pos:R:3", "X 0 0 0")):
        path = xyz(tmp_path, f"{LATTICE} Properties={properties}", f"{row}\n{row}\n")
        assert read(path)[0].atomic_numbers.tolist() == [0, 0]
        assert summaries(path)[0].element_counts == {0: 2}


def test_options(tmp_path: Path) -> None:
    path = text(tmp_path, TWO.replace("energy", "E").replace("forces", "F").replace("group", "phase"))
    assert [one.energy for one in read(path)] == [None, None]
    found = read(path, ReadOptions(energy_key="E", forces_key="F", group_key="phase"))
    for got, expected in zip(found, read(text(tmp_path, TWO)), strict=True):
        assert_same(got, expected)
    assert [one.chosen for one in found] == [("energy_key", "forces_key", "group_key"), ("energy_key", "forces_key")]
    assert [summarize(one).chosen for one in found] == [one.chosen for one in found]


def test_labels_that_contradict_each_other(tmp_path: Path) -> None:
    path = xyz(
        tmp_path, f"{LATTICE} Properties=species:S:1:pos:R:3:forces:R:3:dft_forces:R:3", "Si 0 0 0 1 2 3 1 2 4\n"
    )
    with pytest.raises(
        InputError, match="structure 1: has two labels for forces, which differ: forces 3; dft_forces 4"
    ):
        read(path)
    assert read(path, ReadOptions(forces_key="dft_forces"))[0].forces[0, 2] == 4


def test_summaries_do_not_parse_the_atoms(tmp_path: Path) -> None:
    path = xyz(tmp_path, f"{LATTICE} {FORCES} energy=-3 group=a", "Si zero 0 0\nC 0 0 0\n")
    (summary,) = summaries(path)
    assert summary == StructureSummary({14: 1, 6: 1}, "a", f"{path}, structure 1", -3.0)
    assert (summary.has_forces, summary.has_stress) == (True, False)


def test_only_the_wanted_are_frames(tmp_path: Path) -> None:
    asked: list[int] = []
    path = text(tmp_path, TWO * 2)
    found = list(read_extxyz(path, wanted=lambda number: bool(asked.append(number)) or number == 1))
    assert [type(one) for one in found] == [StructureSummary, Frame, StructureSummary, StructureSummary]
    assert asked == [0, 1, 2, 3]
    assert [one.source for one in found] == [f"{path}, structure {number}" for number in (1, 2, 3, 4)]


def test_streams_one_structure_at_a_time(tmp_path: Path) -> None:
    frames = read_extxyz(text(tmp_path, TWO + TWO.replace("C 1.35", "C broken")))
    assert [next(frames).source[-1] for _ in range(2)] == ["1", "2"]
    with pytest.raises(InputError, match=r"a\.xyz, line 11, structure 3: expected numbers .*pos, found 'C broken"):
        next(frames)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Beyond a block of lines and one structure nothing is held."""

    def peak(repeats: int) -> int:
        path = text(tmp_path, (f"100\n{LATTICE}\n" + "Si 0.123456789 0.123456789 0.123456789\n" * 100) * repeats)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_extxyz(path)) == repeats
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(400) < 1.2 * peak(100)  # of 1.6 MB and 0.4 MB


# --- what is refused


def refused(folder: Path, content: str | bytes, message: str, *, in_summaries: bool = True) -> None:
    path = text(folder, content)
    with pytest.raises(InputError, match=message):
        read(path)
    if in_summaries:
        with pytest.raises(InputError, match=message):
            summaries(path)


@pytest.mark.parametrize("count", ["0", "00", "-1", "1.0", "1e3", "x", "1 2", "+1", "١", "1_0", "9" * 19, "Si 0 0 0"])
def test_numbers_of_atoms(tmp_path: Path, count: str) -> None:
    refused(
        tmp_path,
        f"{TWO}{count}\n{LATTICE}\nSi 0 0 0\n",
        r"a\.xyz, line 8, structure 3: expected a number of atoms, found",
    )


@pytest.mark.parametrize("count", ["1000", "999999999", "9" * 18])
def test_a_number_of_atoms_beyond_the_file(tmp_path: Path, count: str) -> None:
    refused(
        tmp_path,
        f"{count}\n{LATTICE}\nSi 0 0 0\n",
        rf"a\.xyz, line 1, .*at most \d+ atoms in a file of this size, found '{count}",
    )


def test_the_smallest_file_of_its_size(tmp_path: Path) -> None:
    (found,) = read(xyz(tmp_path, "", "H 0 0 0\n" * 3))
    assert found.n_atoms == 3


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ('Lattice="4 0 0 0 4 0 0 0"', r"structure 1: Lattice must be numbers of shape \(9,\)"),
        ('Lattice="4 4 4"', r"structure 1: Lattice must be numbers of shape \(9,\)"),
        ('Lattice="4 0 0 0 4 0 0 0 4 0"', r"structure 1: Lattice must be numbers of shape \(9,\)"),
        ("Lattice=4", r"structure 1: Lattice must be numbers of shape \(9,\)"),
        ('Lattice=""', r"structure 1: Lattice must be numbers of shape \(9,\), got ''"),
        ('Lattice="4 0 0 0 four 0 0 0 4"', r"structure 1: Lattice must be numbers of shape \(9,\), got '4 0 0 0 four"),
        ('Lattice="٤ 0 0 0 4 0 0 0 4"', r"structure 1: Lattice must be numbers"),
        ('Lattice="4 0 0 0 nan 0 0 0 4"', "structure 1: Lattice has NaN or infinity"),
        (f'{LATTICE} lattice="5 0 0 0 5 0 0 0 5"', "line 2, structure 1: expected one of the keys Lattice, lattice"),
        (f'{LATTICE} pbc="T T T" PBC="F F F"', "line 2, structure 1: expected one of the keys pbc, PBC"),
        ("Properties=pos:R:3 properties=pos:R:3:Z:I:1", "line 2, structure 1: expected one of the keys Properties, "),
        *((f'{name}="4 0 0 0 4 0 0 0 4"', rf"line 2, .*the cell under the name Lattice, .* found '{name}=")
          for name in ("cell", "Cell", "unit_cell", "box", "lattice_vectors")),
        ('box="4 4 4"', "line 2, structure 1: expected the cell under the name Lattice"),
        (f'{LATTICE} pbc="T T"', "line 2, structure 1: expected T or F, three times, for pbc, found 'T T'"),
        (f'{LATTICE} pbc="T T yes"', "line 2, structure 1: expected T or F, three times, for pbc, found 'T T yes'"),
        (f"{LATTICE} pbc=", "line 2, structure 1: expected T or F, three times, for pbc, found ''"),
        (f"{LATTICE} energy=-1 energy=-2", "line 2, structure 1: expected the key energy once"),
        (f'{LATTICE} title="a', "line 2, structure 1: expected a quote at the end"),
        ("Properties=species:S:1", "line 2, structure 1: expected positions, pos:R:3 in Properties"),
        ("Properties=species:S:1:pos:R:x", "line 2, structure 1: expected the number of columns of 'pos' in"),
        (f"{LATTICE} energy=1_0", "structure 1: energy must be numbers"),
        (f"{LATTICE} energy=١", "structure 1: energy must be numbers"),
        (f"{LATTICE} energy=-1.0D1", "structure 1: energy must be numbers"),
        (f"{LATTICE} energy=", r"structure 1: energy must be numbers of shape \(\), got ''"),
        (f"{LATTICE} energy=1e999", "structure 1: energy has NaN or infinity"),
        (f"{LATTICE} weight=-1", r"structure 1: weight must be 0 or more, got -1\.0"),
        (f"{LATTICE} weight=T", r"structure 1: weight must be numbers of shape \(\), got 'T'"),
    ],
)  # fmt: skip
def test_comments_that_are_refused(tmp_path: Path, comment: str, message: str) -> None:
    refused(tmp_path, f"1\n{comment}\nSi 0 0 0\n", rf"a\.xyz, {message}")


@pytest.mark.parametrize(
    "comment", ["box=small", "cell=primitive", f'{LATTICE} box="4 4 4"', f"{LATTICE} unit_cell=fcc"]
)
def test_keys_that_only_sound_like_a_cell(tmp_path: Path, comment: str) -> None:
    assert read(xyz(tmp_path, comment))[0].unread == (f"key {comment.replace(LATTICE, '').split('=')[0].strip()}",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Si 0 0", "line 4, structure 1: expected 7 cells: species, pos, forces, found 'Si 0 0'"),
        ("", "line 4, structure 1: expected 7 cells"),
        ("Si 0 0 0 0 0 0 0", "line 4, structure 1: expected 7 cells"),
        ("Si 0 0 zero 0 0 0", "line 4, structure 1: expected numbers in the columns of pos, found 'Si 0 0 zero"),
        ("Si 0 0 0 0 0 1_0", "line 4, structure 1: expected numbers in the columns of forces"),
        ("Si 0 0 0 0 0 1.0D0", "line 4, structure 1: expected numbers in the columns of forces"),
        ("Si 0 ٤ 0 0 0 0", "line 4, structure 1: expected numbers in the columns of pos"),
        ("Si 0 0 nan 0 0 0", "structure 1: positions has NaN or infinity"),
        ("Si 0 0 0 0 1e999 0", "structure 1: forces has NaN or infinity"),
        ("Xx 0 0 0 0 0 0", "line 4, structure 1: expected a chemical symbol, found 'Xx'"),
        ("Si1 0 0 0 0 0 0", "line 4, structure 1: expected a chemical symbol, found 'Si1'"),
        ("14 0 0 0 0 0 0", "line 4, structure 1: expected a chemical symbol, found '14'"),
        ("Siliconium 0 0 0 0 0 0", "line 4, structure 1: expected a chemical symbol, found 'Silicon"),
    ],
)
def test_atoms_that_are_refused(tmp_path: Path, row: str, message: str) -> None:
    good = "Si 0 0 0 0 0 0"
    refused(
        tmp_path,
        f"3\n{LATTICE} {FORCES}\n{good}\n{row}\n{good}\n",
        rf"a\.xyz, {message}",
        in_summaries="symbol" in message,
    )


@pytest.mark.parametrize("number", ["119", "-1", "14.0", "1_4", "١٤", "²", "9" * 30, "Si"])
def test_atomic_numbers(tmp_path: Path, number: str) -> None:
    content = f"2\n{LATTICE} Properties=Z:I:1:pos:R:3\n118 0 0 0\n{number} 1 0 0\n"
    refused(tmp_path, content, r"a\.xyz, line 4, structure 1: expected (an atomic|whole) number")


@pytest.mark.parametrize("row", ["", "0 0 0"])
def test_summaries_of_lines_without_an_element(tmp_path: Path, row: str) -> None:
    content = f"2\n{LATTICE} Properties=pos:R:3:species:S:1\n0 0 0 Si\n{row}\n"
    refused(tmp_path, content, r"a\.xyz, line 4, structure 1: expected 4 cells: pos, species")


def test_properties_are_taken_at_their_word(tmp_path: Path) -> None:
    """More cells are passed over only where a plain file does not say what they are."""
    content = f"1\n{LATTICE} Properties=species:S:1:pos:R:3\nSi 0 0 0 1\n"
    refused(tmp_path, content, "line 3, structure 1: expected 4 cells", in_summaries=False)


@pytest.mark.parametrize("kind", ["forces:R:1", "forces:R:2", "forces:S:3", "forces:L:3"])
def test_forces_in_other_columns(tmp_path: Path, kind: str) -> None:
    cells = " 1" * int(kind[-1])
    path = xyz(tmp_path, f"{LATTICE} Properties=species:S:1:pos:R:3:{kind}", f"Si 0 0 0{cells}\nSi 1 0 0{cells}\n")
    with pytest.raises(InputError, match=r"structure 1: forces must be numbers of shape \(2, 3\)"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.xyz: expected at least one structure, the file holds none"),
        (b"\n \n", "a.xyz: expected at least one structure, the file holds none"),
        (b"\xef\xbb\xbf", "a.xyz: expected at least one structure"),
        (bytes(range(256)), "a.xyz: expected text, found binary data"),
        ("1\nÅ\nSi 0 0 0\n".encode("latin-1"), "a.xyz: expected text, found binary data"),
        (TWO.encode("utf-16"), "a.xyz: expected text, found UTF-16"),
        (b"\0" * 1000, r"a.xyz: expected text, found binary data \(zero bytes in line 1\)"),
        (TWO.encode() + b"\0" * 1000, r"a.xyz: expected text, found binary data \(zero bytes in line 8\)"),
        (TWO.replace("-10.8400", "-10.84\0\0").encode(), r"found binary data \(zero bytes in line 2\)"),
        (TWO.replace("1.3500", "1.35\0\0").encode(), r"found binary data \(zero bytes in line 4\)"),
        (b"1", "a.xyz, line 1, structure 1: expected a line with keys and values, or a comment, found the end"),
        (b"1\n", "a.xyz, line 1, structure 1: expected a line with keys and values, or a comment, found the end"),
        (b"1\n\n", "a.xyz, .*structure 1: expected (1 lines of atoms|at most 0 atoms)"),
        (b"2\nwater, from a book\nO 0 0 0\n", "a.xyz, line 3, structure 1: expected 2 lines of atoms, here number 2"),
    ],
)  # fmt: skip
def test_files_that_hold_nothing_or_end_early(tmp_path: Path, content: bytes, message: str) -> None:
    refused(tmp_path, content, message)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.xyz: cannot read: No such file"):
        read(tmp_path / "absent.xyz")
    (tmp_path / "folder.xyz").mkdir()
    with pytest.raises(InputError, match=r"folder\.xyz: cannot read: Is a directory"):
        read(tmp_path / "folder.xyz")


# --- files that have lost their end, or were damaged


@pytest.mark.parametrize(
    ("last", "whole"),
    [
        ("0.0100 0.0200 0.0300", True),  # written like the others
        ("0.0100 0.0200 0.030", False),
        ("0.0100 0.0200 0.", False),
        ("1e-3 2e-3 3e-13", False),
        ("1 2 3", True),
        ("1 2 30", False),
        ("10 20 3", False),
    ],
)
def test_a_last_number_without_a_line_end(tmp_path: Path, last: str, whole: bool) -> None:
    content = f"1\n{LATTICE} {FORCES}\nSi 0 0 0 {last}"
    if whole:
        assert_same(read(text(tmp_path, content))[0], read(text(tmp_path, content + "\n"))[0])
    else:
        refused(tmp_path, content, "line 3, structure 1: expected a line end after the last number")
    assert len(read(text(tmp_path, content + "\n"))) == 1


def test_a_last_word_without_a_line_end(tmp_path: Path) -> None:
    head = f"2\n{LATTICE} Properties=pos:R:3:species:S:1\n0 0 0 Si\n0 0 0 "
    assert read(text(tmp_path, head + "Si"))[0].atomic_numbers.tolist() == [14, 14]
    refused(tmp_path, head + "S", "line 4, structure 1: expected a line end")


@pytest.mark.parametrize("as_summaries", [False, True])
def test_cut_anywhere(tmp_path: Path, as_summaries: bool) -> None:
    """Cut after any byte, a file is refused, or gives the first structures of the whole one as they were."""
    raw = TWO.encode()
    whole = read(text(tmp_path, raw))
    taken = []
    for kept in range(len(raw)):
        found = outcome(text(tmp_path, raw[:kept]), as_summaries=as_summaries)
        if found is None:
            continue
        taken.append(kept)
        for got, expected in zip(found, whole, strict=False):
            if isinstance(got, Frame):
                assert_same(got, expected)
            assert summarize(got) == summarize(expected)
    first = raw.index(b"\n1\n")
    assert taken == [first, first + 1, len(raw) - 1]  # with and without the line end


def mutate(raw: bytes, random: np.random.Generator) -> bytes:
    """Change, drop, double or insert a few bytes or lines."""
    for _ in range(int(random.integers(1, 4))):
        place, length = int(random.integers(len(raw) + 1)), int(random.integers(1, 12))
        what = random.integers(6)
        lines = raw.split(b"\n")
        row = int(random.integers(len(lines)))
        if what == 0:
            raw = raw[:place] + random.bytes(1) + raw[place + 1 :]
        elif what == 1:
            raw = raw[:place] + raw[place + length :]
        elif what == 2:
            raw = raw[: place + length] + raw[place:]
        elif what == 3:
            words = (
                b'"',
                b"=",
                b"\0",
                b"\n",
                b" ",
                b"9" * 20,
                b"nan",
                b"-",
                b"\\",
                b"{",
                b"[",
                b"_JSON ",
                "٣²".encode(),
                b"\r",
            )
            raw = raw[:place] + words[int(random.integers(len(words)))] + raw[place:]
        elif what == 4:
            raw = b"\n".join(lines[:row] + lines[row + 1 :])
        else:
            raw = b"\n".join(lines[:row] + lines[row : row + 1] + lines[row:])
    return raw


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    """Whatever the bytes are: nothing but an InputError is raised, and summaries and frames tell the same."""
    random = np.random.default_rng(seed)
    for _ in range(100):
        path = text(tmp_path, mutate(TWO.encode(), random))
        frames, found = outcome(path, as_summaries=False), outcome(path, as_summaries=True)
        assert frames is None or [summarize(one) for one in frames] == found, path.read_bytes()


# --- recognising


@pytest.mark.parametrize(
    ("name", "raw", "is_one"),
    [
        *((name, b"whatever", True) for name in ("a.xyz", "A.XYZ", "a.extxyz", "a.xyz.gz", "b.extxyz.bz2", "a.xyz.xz")),
        *((name, TWO.encode(), True) for name in ("a.dat", "noending")),
        ("a.dat", b"\xef\xbb\xbf" + TWO.encode(), True),
        ("a.dat", b"\n\n" + TWO.encode(), True),
        ("a.dat", TWO.replace("\n", "\r\n").encode(), True),
        ("a.dat", TWO.replace("Lattice=", "lattice =").encode(), True),
        ("a.dat", b"1\nwater\nO 0 0 0\n", False),
        ("a.dat", b"2\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\ndirect\n0 0 0\n-5.4\n", False),  # classic text of the group 2
        ("xyz", b"x", False),
        ("a.xyz.zip", b"x", False),
        ("a.dat", b"", False),
        ("a.dat", b"\xff\xfe\0", False),
    ],
)
def test_looks_like_extxyz(name: str, raw: bytes, is_one: bool) -> None:
    assert looks_like_extxyz(Head(name, raw)) is is_one


def test_ase_reads_our_writing_from_memory() -> None:
    file = io.StringIO()
    write_extxyz(file, [frame()])
    file.seek(0)
    assert len(ase.io.read(file, format="extxyz")) == 3
