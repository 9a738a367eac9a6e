"""The plugin's reader of potential files beside Python's: the same potentials, and the same faults refused."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bond_order_samples import make_bond_order
from sample_sets import make_potential

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import asks_for_random_weights, ending_of, load_potential, save_potential
from pyfit_gpu.interfaces.lammps.cache import SOURCES
from pyfit_gpu.models.potential import Potential

READER = ("potential", "network_lines", "shared_network", "descriptor", "text_lines")
Found = dict[str, object]
Read = Callable[..., list[Found]]

HEADER = """\
 5 0.5 1
 1
 Si 28.0855
 0 0.25 4.5 1.0 0.8
 1 0
 2 1.5 2.5
 0 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85
 3 2 2 1
"""
VALUES = "".join(f" {value / 8} 0.0000\n" for value in range(1, 10))
MORE_TERMS = HEADER.replace(" 5 0.5 1\n", " 6 0.5 1\n").replace(" 1 0\n", " 2 0 2 1 1 0 2 2\n")
MORE_TERMS = MORE_TERMS.replace(" 3 2 2 1\n", " 3 8 1 1\n") + "".join(f" {k / 8} 0.0000\n" for k in range(11))
BASELINE = " 1 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85\n"
PLAIN = HEADER.replace(" 0 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85\n 3 2 2 1\n", " 3 2 2 8\n" + BASELINE)
PLAIN_VALUES = "".join(f"{value / 8}\n" for value in range(30))
BARE = HEADER.replace(" 0 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85\n 3 2 2 1\n", BASELINE + " 0\n")
# One network for two elements: 3 x 2 features, or twice as many inputs, and 2 x 21 outputs.
TWO = PLAIN.replace(" 1\n Si 28.0855\n", " 2\n Si 28.0855\n C 12.011\n").replace(
    BASELINE, " 1 " + " ".join(str(k / 4) for k in range(42)) + "\n"
)
KIND_2 = TWO.replace(" 3 2 2 8\n", " 3 6 2 42\n") + "".join(f"{k / 8}\n" for k in range(140))
KIND_1 = TWO.replace(" 3 2 2 8\n", " 3 12 2 42\n") + "".join(f"{k / 8}\n" for k in range(152))


@pytest.fixture(scope="module")
def reader(compiler: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader as a program."""
    program = tmp_path_factory.mktemp("reader") / "read_potentials"
    sources = [SOURCES / f"{name}.cpp" for name in READER]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    main = Path(__file__).with_name("read_potentials.cpp")
    subprocess.run([*compiler, *flags, main, *sources, "-o", program], check=True)
    return program


@pytest.fixture
def read(reader: Path, tmp_path: Path) -> Read:
    """Verdicts of the reader on some contents, each of a file whose name ends with its number and `.nn.dat`."""

    def read(*contents: str | bytes) -> list[Found]:
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}.nn.dat")
            paths[-1].write_bytes(content.encode() if isinstance(content, str) else content)
        names = "".join(f"{path}\n" for path in paths)
        done = subprocess.run([reader], input=names, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return read


def with_line(line: int, text: str, whole: str = HEADER + VALUES) -> str:
    lines = whole.splitlines()
    lines[line - 1] = text
    return "\n".join(lines) + "\n"


def as_found(potential: Potential) -> Found:
    """A potential as the program prints it."""
    d, numbers = potential.descriptor, potential.bond_order_parameters
    has_baseline = potential.use_baseline and potential.is_physically_informed
    return {
        "elements": list(d.elements),
        "untrained": list(potential.untrained),
        "triples": [list(triple) for triple in d.triples],
        "integers": [d.gi_mode, d.cross_terms, potential.networks.activation, d.n_features],
        "lengths": [d.shift, d.cutoff, d.cutoff_width, d.gaussian_width, d.neighbor_cutoff],
        "legendre_orders": list(d.legendre_orders),
        "gaussian_centers": list(d.gaussian_centers),
        "layer_sizes": list(potential.networks.layer_sizes),
        "energy_shift": [None if math.isnan(shift) else shift for shift in potential.energy_shift.tolist()],
        "masses": list(potential.masses),
        "parameters": (list(numbers) if potential.is_bare else potential.networks.flat()[0].tolist()),
        "kind": potential.kind,
        "baseline": list(numbers) if has_baseline and not potential.is_bare else [],
        "neighbor_cutoff": [potential.neighbor_cutoff],
    }


@pytest.mark.parametrize(
    "potential",
    [
        make_potential(),
        make_potential(("Si", "C", "Ge"), hidden=(3,), activation=0, gi_mode=0, gaussian_centers=(0.0, 2.5)),
        make_potential(gi_mode=1, hidden=()),
        make_potential(("C", "Si"), gi_mode=3, hidden=(4, 3, 2, 2)),
        make_potential(gi_mode=4, cutoff=1 / 3, shift=-1e-7),
        make_potential(("O", "H"), gi_mode=6, cross_terms=2, triples=((0, 0, 0), (0, 2, 2))),
        replace(make_potential(("Si", "C")), energy_shift=torch.tensor([0.1, -1e3]), untrained=("C",)),
    ],
    ids=lambda potential: f"mode {potential.descriptor.gi_mode}",
)
def test_what_is_read(read: Read, potential: Potential, tmp_path: Path) -> None:
    save_potential(potential, tmp_path / "nn.dat")
    assert read((tmp_path / "nn.dat").read_text()) == [as_found(potential)]


@pytest.mark.parametrize(
    "potential",
    [
        make_bond_order(),
        make_bond_order(form="plain", gi_mode=2),
        make_bond_order(("Si", "C"), gi_mode=3),
        make_bond_order(bare=True),
        make_bond_order(("Si", "C", "Ge"), "plain", bare=True),
        replace(make_bond_order(), use_baseline=False),
        replace(make_potential(gi_mode=2), networks=replace(make_potential().networks, activation=2)),
    ],
    ids=lambda potential: potential.kind,
)
def test_informed_potentials(read: Read, potential: Potential, tmp_path: Path) -> None:
    path = tmp_path / f"x{ending_of(potential)}"
    save_potential(potential, path)
    assert read(path.read_text()) == [as_found(load_potential(path))]


@pytest.mark.parametrize("content", [KIND_1, KIND_2], ids=["Kind I", "Kind II"])
@pytest.mark.parametrize(("outputs", "baseline"), [(42, 42), (2, 0), (1, 8)])
def test_one_network_for_all_elements(read: Read, content: str, outputs: int, baseline: int, tmp_path: Path) -> None:
    """Numbers of eighths, of which sums are exact; a shift of 0 has no constant inputs, one of 0.3 has."""
    lines = content.splitlines()
    sizes = lines[7].split()[:3]
    count = sum((int(n_in) + 1) * n_out for n_in, n_out in ((sizes[1], 2), ("2", outputs)))
    lines[7:] = [" ".join([*sizes, str(outputs)]), " ".join(["1", *["0.5"] * baseline]), *lines[9 : 9 + count]]
    for shift, rounding in (("0", 0.0), ("0.3", 1e-13)):
        lines[0] = f" 2 {shift} 1"
        (tmp_path / "x.pinn").write_text("\n".join(lines) + "\n")
        expected, (found,) = as_found(load_potential(tmp_path / "x.pinn")), read("\n".join(lines) + "\n")
        assert found.pop("parameters") == pytest.approx(expected.pop("parameters"), rel=0, abs=rounding * count)
        assert found == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN.replace("3 2 2 8", "3 2 2 7") + PLAIN_VALUES, r"line 7: expected 1 output \(energy\) or 8"),
        (PLAIN.replace(" 0.85", "") + PLAIN_VALUES, "line 8: .* flag and 8 bond-order parameters, not 7 of them"),
        (PLAIN.replace("0.85", "0.85 1") + PLAIN_VALUES, "line 8: .* flag and 8 bond-order parameters, not 9 of them"),
        (KIND_2.replace("3 6 2 42", "3 7 2 42"), r"line 8: expected 6 inputs \(Kind II\) or 12 \(Kind I\)"),
        (
            KIND_2.replace("3 6 2 42", "3 6 2 21"),
            r"line 8: expected 1 or 2 outputs \(energies\), or 42 \(21 bond-order",
        ),
        (BARE.replace(" 1 9.6", " 0 9.6"), "line 7: expected baseline flag 1: a bond-order potential without"),
        (BARE + "0.5\n", "line 9: expected 0 weights and biases .*and no more"),
        (BARE.rstrip(), "line 8: expected a line end after the last number"),
        (BARE.replace(" 0\n", " 0 1\n"), "line 8: .*layer sizes"),
    ],
)
def test_informed_potentials_refused(read: Read, content: str, message: str, tmp_path: Path) -> None:
    found = str(read(content)[0]["refused"])
    assert re.search(rf"0\.nn\.dat, {message}", found), found
    (tmp_path / "0.pinn").write_text(content)
    with pytest.raises(InputError, match=message.partition(":")[0]):
        load_potential(tmp_path / "0.pinn")


def test_forms_of_one_content(read: Read) -> None:
    """Line ends, blank lines, a byte order mark, tabs, comments, quotes, and numbers written in other ways."""
    whole = HEADER + VALUES
    forms = [
        whole,
        whole.replace("\n", "\r\n"),
        whole.replace("\n", "\r"),
        "\ufeff" + whole.replace("\n", "\n\n \t\n"),
        whole.replace(" ", "\t"),
        whole.replace("Si", "'Si'").replace(" 5 0.5 1\n", " 5.0 +5.e-1 1e0 - Gi version 7 – comment\n"),
        whole.removesuffix("\n"),
    ]
    found = read(*forms)
    assert found == [found[0]] * len(forms)
    assert found[0]["parameters"] == [value / 8 for value in range(1, 10)]


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "7 0.5 1", r"gi_mode: expected one of 0, 1, 2, 3, 4, 5, 6, got 7"),
        (1, "5 x 1", "expected gi_mode, shift and activation, found '5 x 1'"),
        (1, "5.5 0 1", "expected gi_mode, shift and activation"),
        (1, "5 0.5 3", "activation: expected 0, 1 or 2, got 3"),
        (1, "5 nan 1", "expected gi_mode, shift and activation"),
        (2, "0", "a number of elements above 0"),
        (3, "Xx 28", "an element symbol and its mass, found 'Xx 28'"),
        (3, "Si", "an element symbol and its mass"),
        (3, "Si 28 - e_shift", "a number after e_shift"),
        (4, "1 0.25 4.5 1.0 0.8", "randomize 0, the parameters of a trained network"),
        (4, "2 0.25 4.5 1.0 0.8", "randomize 0 or 1"),
        (4, "0 -1 4.5 1.0 0.8", "max_random: a number >= 0"),
        (4, "0 0.25 0 1.0 0.8", "cutoff: expected a length above 0 Å, got 0"),
        (4, "0 0.25 4.5 -1 0.8", "cutoff_width: expected a length above 0 Å, got -1"),
        (4, "0 0.25 4.5 1 1e999", "randomize, max_random, rc, d and sigma"),
        (5, "1 61", "legendre_orders: expected whole numbers from 0 to 60, got 61"),
        (5, "1 0.5", "older header"),
        (5, "2 0", "Legendre orders: their number, then each: 2 numbers after the first"),
        (6, "2 1.5 -2.5", "gaussian_centers: expected lengths above 0"),
        (6, "0", "Gaussian centres r0"),
        (7, "0.5 0.0000", "older header"),
        (7, "2 1 2 3 4 5 6 7 8", "baseline flag 0 or 1"),
        (8, "3 3 2 1", "2 inputs as the first layer"),
        (8, "3 2 2 2", r"1 output \(energy\) or 8 \(bond-order parameters\) as the last layer"),
        (8, "1 2", "at least two whole numbers above 0"),
        (8, "3 2 0 1", "at least two whole numbers above 0"),
        (12, "nan 0.0000", "a weight or bias, one number, found 'nan 0.0000'"),
        (12, "inf", "a weight or bias"),
        (12, "0x10", "a weight or bias"),
        (12, "1_0", "a weight or bias"),
        (12, "1.0D0", "a weight or bias"),
        (12, "0.5 x", "the reserved second cell"),
        (12, "0.5 0.6 0.7", "a weight or bias and one reserved cell"),
    ],
)
def test_refused(read: Read, line: int, text: str, message: str) -> None:
    assert re.search(rf"0\.nn\.dat, line {line}: .*{message}", str(read(with_line(line, text))[0]["refused"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0.nn.dat: expected gi_mode, shift and activation, found the end of the file"),
        (HEADER, "0.nn.dat: expected 9 weights and biases for the layers 2 2 1, found 0"),
        (HEADER + VALUES + "1.5 0\n", "line 18: expected 9 weights and biases for the layers 2 2 1 and no more"),
        (HEADER.replace("3 2 2 1", "3 2 900000000 1") + VALUES, "expected 3600000001 weights.*found 9"),
        (HEADER.replace("3 2 2 1", "4 2 900000000 900000000 1") + VALUES, "expected 8.*weights.*found 9"),
        (HEADER + VALUES.rstrip()[:-1], "line end after the last number"),
        (HEADER + VALUES.rstrip()[:-7], "as many cells as on the lines before|line end"),
        (HEADER + "\0" + VALUES, r"0.nn.dat: expected a potential \(.nn.dat, .pinn\), found binary data"),
        ((HEADER + VALUES).encode("utf-16"), "found UTF-16: save it as UTF-8"),
        (HEADER.replace("28.0855", "28.0855 \u00e4").encode("latin-1"), "found binary data"),
        (MORE_TERMS.replace("1 1 0 2 2", "1 1 0 2 3"), "triples: triple 1, 0 2 3: order 3 is not one"),
        (MORE_TERMS.replace("1 1 0 2 2", "1 1 2 2 0"), "triples: triple 1, 2 2 0: expected ascending orders"),
        (MORE_TERMS.replace("1 1 0 2 2", "2 1 0 2 2"), "cross_terms: expected a whole number from 0 to 1 .*got 2"),
        (MORE_TERMS.replace("1 1 0 2 2", "1 2 0 2 2 0 2 2"), "triples: triple 2, 0 2 2: it is there twice"),
        (HEADER.replace(" 1\n Si 28.0855", " 2\n Si 28\n Si 28") + VALUES, "elements: expected different"),
        (
            HEADER.replace(" 5 0.5 1\n 1\n Si 28", " 1 0.5 1\n 2\n C 12\n Si 28") + VALUES,
            r"line 1: gi_mode: expected one that takes 2 elements \(0, 2, 3, 5, 6\), got 1",
        ),
    ],
)
def test_refused_as_a_whole(read: Read, content: str | bytes, message: str) -> None:
    found = str(read(content)[0]["refused"])
    assert re.search(message, found), found


def mutations(whole: str, count: int, seed: int) -> list[str]:
    """Copies with a few cells, lines or characters changed, lost or doubled."""
    draw, made = random.Random(seed), []
    numbers = ["0", "1", "-1", "2", "8", "0.5", "1e3", "nan", "1e400", "3 1 2 3"]
    words = ["", "x", "Si", "C", "- untrained", "e_shift", *numbers]
    for _ in range(count):
        text = whole
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            lines = text.split("\n")
            place = draw.randrange(len(lines))
            cells = lines[place].split()
            kind = draw.randrange(6)
            if kind < 3 and cells:
                cells[draw.randrange(len(cells))] = draw.choice(words)
                lines[place] = " ".join(cells)
            elif kind == 3:
                del lines[place]
            elif kind == 4:
                lines.insert(place, lines[place])
            text = "\n".join(lines)
            if kind == 5:
                text = text[: draw.randrange(len(text) + 1)]
        made.append(text)
    return made


def python_verdict(path: Path) -> Potential | str:
    """The potential in a file, or why it is refused."""
    try:
        return load_potential(path, seed=1)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(3))
def test_same_verdict_as_python(read: Read, seed: int, tmp_path: Path) -> None:
    """Random damage: what Python refuses is refused, with the line, and what it takes is read to the same potential."""
    contents = [
        *mutations(HEADER + VALUES, 150, seed), *mutations(MORE_TERMS, 150, seed),
        *mutations("# somebody\n#\n#\n" + PLAIN + PLAIN_VALUES, 100, seed), *mutations(BARE, 100, seed),
        *mutations(KIND_2, 50, seed),
    ]  # fmt: skip
    refused = 0
    for content, found in zip(contents, read(*contents), strict=True):
        path = tmp_path / "python.nn.dat"
        path.write_text(content)
        expected = python_verdict(path)
        if isinstance(expected, Potential):
            is_drawn = asks_for_random_weights(path)
            assert "refused" in found if is_drawn else found == as_found(expected), (content, found)
            continue
        assert "refused" in found, content
        if "randomize 0, " in str(found["refused"]):
            continue  # Python takes that, and may find a fault further down
        lines = [re.search(r"nn\.dat(, line \d+)?", text) for text in (expected, str(found["refused"]))]
        assert None not in lines
        assert len({line[1] for line in lines if line}) == 1, (content, expected, found)
        refused += 1
    assert 50 < refused < len(contents)
