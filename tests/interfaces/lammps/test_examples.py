"""The scripts of examples/lammps, in short form: what whole runs give stands in the README there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lammps_samples import Runner

EXAMPLES = Path(__file__).parents[3] / "examples" / "lammps"


def results(run: Runner, name: str, *, steps: int, ranks: int = 1) -> list[list[float]]:
    """The numbers of the lines `result: ...` of a script."""
    for file in EXAMPLES.glob("*.nn.dat"):
        (run.folder / file.name).symlink_to(file)
    output = run(f"variable steps index {steps}", "variable repeat index 2", f"include {EXAMPLES / name}", ranks=ranks)
    lines = re.findall(r"^result: (.*)", output, re.MULTILINE)
    return [[float(number) for number in re.findall(r"\d+\.?\d*", line.replace("cm^3", ""))] for line in lines]


def test_every_script_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.in")} == {"melt_silicon.in", "silicon_carbide.in"}


def test_silicon(run: Runner) -> None:
    """Too short to melt: a crystal still, though warm."""
    ((temperature, density, moved),) = results(run, "melt_silicon.in", steps=100)
    assert 250 < temperature < 600
    assert 2.2 < density < 2.35
    assert 0.05 < moved < 0.4


@pytest.mark.parametrize("ranks", [1, 2])
def test_silicon_carbide(run: Runner, ranks: int) -> None:
    rows = results(run, "silicon_carbide.in", steps=100, ranks=ranks)
    assert len(rows) == 4
    for temperature, length, density in rows:
        assert 100 < temperature < 1500
        assert 4.37 < length < 4.45
        assert density == pytest.approx(4 * (28.085 + 12.011) * 1.66054 / length**3, abs=0.01)
