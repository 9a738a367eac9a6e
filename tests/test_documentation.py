"""Everything shown runs: the README's and the documents' Python, and the examples."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHORT_FORM = {
    "informed_physics.py": ["--steps", "3"],
    "molecular_dynamics.py": ["--steps", "20", "--device", "cpu"],
    "elastic_constants.py": ["--device", "cpu"],
    "torch_sim_nve.py": ["--crystals", "3", "--cells", "1", "--steps", "20", "--device", "cpu"],
    "select_frames.py": ["--steps", "40", "--interval", "2", "-n", "5"],
}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

documents = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
blocks = [
    pytest.param(match[1], id=f"{document.relative_to(ROOT)}-{number}")
    for document in documents
    for number, match in enumerate(BLOCK.finditer(document.read_text(encoding="utf-8")))
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder that sees the examples under the name that the documents use, and is free to write to."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def require_installed(code: str) -> None:
    """Skip code that needs an extra that is not installed."""
    if "torch_sim" in code:
        pytest.importorskip("torch_sim", reason="torch-sim is not installed (extra torch-sim)")


def test_there_are_blocks():
    assert len(blocks) >= 3


@pytest.mark.parametrize("code", blocks)
def test_python_in_documents_runs(code, workplace):
    require_installed(code)
    exec(compile(code, "document", "exec"), {"__name__": "document"})


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_run(script, workplace, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script), *SHORT_FORM.get(script.name, [])])
    require_installed(script.read_text(encoding="utf-8"))
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


def test_elastic_constants_of_the_examples_potential(capsys, monkeypatch):
    """Measured at room temperature: 5.43 Å, 166, 64 and 80 GPa (C44 unclamped)."""
    monkeypatch.setattr(sys, "argv", ["elastic_constants.py", "--device", "cpu"])
    runpy.run_path(str(EXAMPLES / "elastic_constants.py"), run_name="__main__")
    found = dict(re.findall(r"^(.+?)  +([\d.-]+) (?:GPa|Å)$", capsys.readouterr().out, re.MULTILINE))
    assert list(found) == ["lattice constant", "C11", "C12", "C44", "C44, atoms clamped", "bulk modulus"]
    constant, c11, c12, c44, clamped, bulk_modulus = map(float, found.values())
    assert 5.40 < constant < 5.55
    assert 110 < c11 < 200
    assert 40 < c12 < 90
    assert 40 < c44 < 110
    assert c44 < clamped
    assert abs(bulk_modulus - (c11 + 2 * c12) / 3) < 0.2


@pytest.mark.parametrize("options", [[], ["--thermostat"]])
def test_molecular_dynamics_prints_temperature_and_energy(options, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["molecular_dynamics.py", "--steps", "20", "--device", "cpu", *options])
    runpy.run_path(str(EXAMPLES / "molecular_dynamics.py"), run_name="__main__")
    rows = [[float(cell) for cell in line.split()] for line in capsys.readouterr().out.splitlines()[1:]]
    times, temperatures, *_, totals = zip(*rows, strict=True)
    assert times == tuple(range(21))
    assert 50 < min(temperatures) <= max(temperatures) < 900
    spread = max(totals) - min(totals)
    assert spread > 1e-3 if options else spread < 1e-4


@pytest.mark.slow
def test_quickstart_ends_with_errors_and_files(tmp_path):
    """The commands of the quickstart in the environment of the tests: its installation is a job for a newcomer."""
    environment = {**os.environ, "PYFIT_GPU_ENVIRONMENT": sys.prefix}
    if not (Path(sys.prefix) / "bin" / "pyfit-gpu").exists():
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")
    command = ["bash", str(EXAMPLES / "quickstart.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    row = re.search(r"^all +19 +([\d.]+)", done.stdout, re.MULTILINE)
    assert float(row[1]) < 100  # meV/atom, of structures that do not train; 20 seen, more on a busy machine
    for name in ("report/report.html", "fit.nn.dat", "fit.m001.nn.dat", "errors.csv", "set.h5", "commands.sh"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_classic_configuration_runs(workplace, monkeypatch, capsys):
    from pyfit_gpu.commands.cli import main

    monkeypatch.chdir(workplace)
    (workplace / "data").symlink_to(EXAMPLES / "data")
    assert main(["--config-file", "examples/classic_config.json"]) == 0
    names = {path.name for path in workplace.iterdir()} - {"examples", "data"}
    assert names == {
        "loss.txt",
        "nn_backup",
        "pyfit_log.txt",
        "si.classic.nn.dat",
        "si.training_set.dat",
        "validation.txt",
    }


def test_links_between_documents_exist():
    for document in documents + sorted(EXAMPLES.rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert "://" in target or (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.slow
def test_silicon_carbide_runs_in_short_form(tmp_path):
    """Two elements from start to dynamics. What the whole run gives stands in the example's README."""
    program = Path(sys.prefix) / "bin"
    if not (program / "pyfit-gpu").exists():
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "STEPS": "8", "MD_STEPS": "5"}
    command = ["bash", str(EXAMPLES / "silicon_carbide" / "run.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "energy per atom of Si" in done.stdout
    assert re.search(r"validation RMSE: energy [\d.]+ meV/atom, forces [\d.]+ eV/Å, stress", done.stdout)
    assert re.search(r"^all +128 ", done.stdout, re.MULTILINE)
    temperatures = re.findall(r"^ +\d+\.0 +(\d+\.\d)", done.stdout, re.MULTILINE)
    assert len(temperatures) == 6
    assert (tmp_path / "out" / "sic.extxyz").stat().st_size > 0


@pytest.mark.slow
def test_ensemble_is_killed_resumed_and_ranked(tmp_path):
    """Fewer members and steps than a newcomer's run."""
    program = Path(sys.prefix) / "bin"
    if not (program / "pyfit-gpu").exists():
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "MEMBERS": "4", "STEPS": "8"}
    out = tmp_path / "out"
    command = ["bash", str(EXAMPLES / "ensemble.sh"), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "killed, exit status 137" in done.stdout
    assert re.search(r"^resume: .*fit\.run\.h5, after \d+ steps", done.stdout, re.MULTILINE)
    assert re.search(r"^1,\d,[\d.e-]+,\d,\d,(steps|patience),", done.stdout, re.MULTILINE)
    assert "mean and spread of 4 members" in done.stdout
    spreads = [float(line.split(",")[-1]) for line in done.stdout.splitlines()[-5:]]
    assert spreads == sorted(spreads, reverse=True)
    for member in range(4):
        steps = [int(row.split()[0]) for row in (out / f"fit.m00{member}.loss.txt").read_text().splitlines()]
        assert steps == list(range(len(steps)))
