"""The plugin's reader of uncertainty files beside Python's: the same numbers, and the same faults refused."""

from __future__ import annotations

import json
import random
import re
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_samples import crystal, sample_potential, sample_uncertainty

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, save_uncertainty
from pyfit_gpu.interfaces.lammps.cache import SOURCES
from pyfit_gpu.models.uncertainty import Uncertainty

Found = dict[str, object]
Read = Callable[..., list[Found]]


def sealed(text: str) -> str:
    """A text with its last line anew, so that the checksum is its own."""
    body = text[: text.rindex("end ")]
    return f"{body}end {zlib.crc32(body.encode()):08x}\n"


WHOLE = sealed("""\
pyfit-gpu-uncertainty 1
potential 00ab12ff
elements Si C
inputs 2
begin grade
element Si 1
scale 0.5 2
cluster 12 1 4.0
center 1.5 -2.5
direction 0.25 1e-3
element C 2
scale 1 1
cluster 3 0 1.0
center 0 0
cluster 4 2 9.0
center 1 1
direction 1 0
direction 0 2
end grade
end 00000000
""")


@pytest.fixture(scope="module")
def reader(compiler: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader as a program."""
    program = tmp_path_factory.mktemp("reader") / "read_uncertainties"
    sources = [SOURCES / f"{name}.cpp" for name in ("uncertainty", "descriptor", "text_lines")]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    main = Path(__file__).with_name("read_uncertainties.cpp")
    subprocess.run([*compiler, *flags, main, *sources, "-o", program], check=True)
    return program


@pytest.fixture
def read(reader: Path, tmp_path: Path) -> Read:
    """Verdicts of the reader on some contents, each of a file whose name ends with its number and `.txt`."""

    def read(*contents: str) -> list[Found]:
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}.txt")
            paths[-1].write_text(content)
        names = "".join(f"{path}\n" for path in paths)
        done = subprocess.run([reader], input=names, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return read


def as_found(uncertainty: Uncertainty) -> Found:
    """An uncertainty as the program prints it."""
    grade, clusters = uncertainty.grade, []
    for element in range(grade.n_elements):
        own: list[list[float]] = [grade.scale[element].tolist()]
        for k in (grade.element == element).nonzero()[:, 0].tolist():
            rows = grade.directions[k][grade.directions[k].any(dim=1)]
            own += [[float(grade.weight[k])], grade.centers[k].tolist(), rows.flatten().tolist()]
        clusters.append(own)
    head = [uncertainty.checksum, grade.n_inputs]
    return {"head": head, "elements": list(uncertainty.elements), "clusters": clusters}


def test_what_is_read(read: Read, tmp_path: Path) -> None:
    potential = sample_potential(("Si", "C"))
    uncertainty = sample_uncertainty(crystal(second="C"), potential, n_clusters=[3, 0])
    save_uncertainty(uncertainty, tmp_path / "u.txt")
    assert read((tmp_path / "u.txt").read_text()) == [as_found(uncertainty)]


def test_forms_of_one_content(read: Read) -> None:
    """Line ends, blank lines, comments, tabs, and sections that are not for grades."""
    bars = "begin error-bars\nend\nbegin grade\nrow 1 2 3\nend error-bars\n"
    forms = [
        WHOLE,
        WHOLE.replace("\n", "\r\n"),
        WHOLE.replace("\n", "\r"),
        "\ufeff" + WHOLE,
        sealed(WHOLE.replace("\n", "\n\n  # m\u00e9hr\n")) + "\n  # more\n",
        sealed(WHOLE.replace(" ", "\t").replace("end\t", "end ")),
        sealed(WHOLE.replace("begin grade\n", bars + "begin grade\n")),
        sealed(WHOLE.replace("end grade\n", "end grade\n" + bars)),
        WHOLE.removesuffix("\n"),
    ]
    found = read(*forms)
    assert found == [found[0]] * len(forms)
    assert found[0]["head"] == [0x00AB12FF, 2]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("uncertainty 1", "uncertainty 2", 1, "version 1 of the format"),
        ("pyfit-gpu-", "", 1, "an uncertainty file, which begins with 'pyfit-gpu-uncertainty 1'"),
        ("00ab12ff", "00AB12FF", 2, "'potential' and a checksum of 8 hexadecimal digits"),
        ("00ab12ff", "0ab12ff", 2, "'potential' and a checksum of 8 hexadecimal digits"),
        ("elements Si C", "elements Si Si", 3, "'elements' and different chemical symbols"),
        ("inputs 2", "inputs 0", 4, "'inputs' and their number"),
        ("begin grade", "start grade", 5, "'begin' and the name of a section, or 'end'"),
        ("element Si 1", "element C 1", 6, "'element' and the symbol Si and its number of clusters"),
        ("element Si 1", "element Si 2", 11, "'cluster' and numbers of atoms and of directions, and a weight above 0"),
        ("scale 0.5 2", "scale 0.5 0", 7, "'scale' and .*numbers above 0"),
        ("scale 0.5 2", "scale 0.5", 7, "2 numbers"),
        ("cluster 12 1 4.0", "cluster 12 1 -4.0", 8, "a weight above 0"),
        ("cluster 12 1 4.0", "cluster 12 3 4.0", 8, "at most 2 directions"),
        ("cluster 12 1 4.0", "cluster 12 1.0 4.0", 8, "numbers of atoms and of directions"),
        ("cluster 12 1 4.0", "cluster 12 0 4.0", 10, "'element' and the symbol C"),
        ("center 1.5 -2.5", "center 1.5 nan", 9, "2 numbers"),
        ("center 1.5 -2.5", "center 1.5 -2.5 1", 9, "2 numbers"),
        ("direction 0.25 1e-3", "direction 0.25 1d-3", 10, "2 numbers"),
        ("end grade\n", "end grade\nbegin grade\n", 20, "one section of this name"),
        ("\nend ", "\nend 0", 20, "'begin' .* or 'end' and a checksum of 8 hexadecimal digits"),
    ],
)
def test_refused(read: Read, old: str, new: str, line: int, message: str, tmp_path: Path) -> None:
    """With the line, as in Python."""
    content = new.join(WHOLE.rsplit(old, 1)) if old == "\nend " else WHOLE.replace(old, new, 1)
    found = str(read(content)[0]["refused"])
    assert re.search(rf"0\.txt, line {line}: expected .*{message}", found), found
    assert f"0.txt, line {line}: " in str(python_verdict(tmp_path / "0.txt"))


def test_more_after_the_end(read: Read, tmp_path: Path) -> None:
    assert "0.txt, line 21: expected the end of the file after 'end'" in str(read(WHOLE + "more\n")[0]["refused"])
    assert "0.txt, line 21: expected the end of the file" in str(python_verdict(tmp_path / "0.txt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE.replace("cluster 12 1 4.0", "cluster 12 1 4.5"), "damaged: its content does not have the checksum that"),
        (sealed("# a\n" + WHOLE).replace("# a", "# b"), "damaged: its content does not have the checksum that"),
        ("", "empty: expected 'pyfit-gpu-uncertainty 1', found the end of the file"),
        (WHOLE[: WHOLE.rindex("end ")] + "\n# more\n", "cut off after line 19: expected 'begin' and"),
    ],
)
def test_damage_to_the_whole(read: Read, content: str, message: str, tmp_path: Path) -> None:
    """Said in the same words as in Python."""
    found = read(content)[0]["refused"]
    assert f"0.txt: {message}" in str(found)
    assert found == python_verdict(tmp_path / "0.txt")


@pytest.mark.parametrize("end", range(1, 20))
def test_cut(read: Read, end: int) -> None:
    content = "\n".join(WHOLE.split("\n")[:end]) + "\n"
    assert re.search(r"0\.txt: cut off after line \d+: expected ", str(read(content)[0]["refused"]))
    assert "found the end of the file" in str(read(content)[0]["refused"])


def python_verdict(path: Path) -> Uncertainty | str:
    """The uncertainty in a file, or why it is refused."""
    try:
        return load_uncertainty(path)
    except InputError as error:
        return str(error)


def damaged(count: int, seed: int) -> list[str]:
    """Copies with a few cells, lines or characters changed, lost or doubled, most of them before the checksum."""
    draw, made = random.Random(seed), []
    words = ["", "x", "Si", "C", "grade", "end", "begin", "0", "1", "-1", "2", "0.5", "1e3", "nan", "1e400", "+1", "#"]
    for _ in range(count):
        lines = WHOLE.split("\n")
        for _ in range(draw.choice([1, 1, 2, 3])):
            place = draw.randrange(len(lines))
            cells = lines[place].split()
            kind = draw.randrange(6)
            if kind < 3 and cells:
                cells[draw.randrange(len(cells))] = draw.choice(words)
                lines[place] = " ".join(cells)
            elif kind == 3 and len(lines) > 1:
                del lines[place]
            elif kind == 4:
                lines.insert(place, lines[place])
            elif kind == 5 and cells:
                lines[place] += " " + draw.choice(words)
        text = "\n".join(lines)
        made.append(sealed(text) if draw.random() < 0.8 and "\nend " in text else text)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_same_verdict_as_python(read: Read, seed: int, tmp_path: Path) -> None:
    """Random damage: what Python refuses is refused, with the line, and what it takes has the same numbers."""
    contents = damaged(200, seed)
    refused = 0
    for content, found in zip(contents, read(*contents), strict=True):
        path = tmp_path / "python.txt"
        path.write_text(content)
        expected = python_verdict(path)
        if isinstance(expected, Uncertainty):
            assert found == as_found(expected), content
            continue
        assert "refused" in found, content
        lines = [re.search(r"\.txt(, line \d+)?:", text) for text in (expected, str(found["refused"]))]
        assert None not in lines
        assert len({line[1] for line in lines if line}) == 1, (content, expected, found)
        refused += 1
    assert 50 < refused < len(contents)
