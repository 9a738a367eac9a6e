"""Short runs of the plugin under the sanitizers of addresses and of undefined behaviour."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ase import Atoms
from bond_order_samples import make_bond_order
from lammps_samples import Runner, coefficients, crystal, sample_uncertainty, save_committee

from pyfit_gpu.errors import Failure
from pyfit_gpu.formats.nn_dat import ending_of, save_potential
from pyfit_gpu.formats.opening import load_potentials
from pyfit_gpu.formats.uncertainty_file import save_uncertainty
from pyfit_gpu.interfaces.lammps.build import build_plugin
from pyfit_gpu.interfaces.lammps.installation import Installation

FLAGS = [
    "-O1",
    "-g",
    "-D_GLIBCXX_ASSERTIONS",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def libraries(compiler: tuple[str, ...]) -> str:
    """The sanitizers' libraries, which a program that was built without them must load first."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        done = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        path = Path(done.stdout.strip())
        if not path.is_absolute():
            pytest.skip(f"the compiler has no {name}")
        found.append(str(path))
    return " ".join(found)


@pytest.fixture(scope="module")
def sanitized(lammps: Installation, libraries: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_plugin(lammps, flags=FLAGS, out=tmp_path_factory.mktemp("sanitized") / "pyfitplugin.so").plugin


@pytest.fixture
def run_sanitized(run: Runner, sanitized: Path, libraries: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setenv("LD_PRELOAD", libraries)
    # LAMMPS and MPI leave memory to the end of the process.
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0:detect_odr_violation=0")
    monkeypatch.setenv("UBSAN_OPTIONS", "print_stacktrace=1")
    return replace(run, plugin=sanitized)


EVERYTHING = [
    "neighbor 0.001 bin",  # the list is hardly longer than what is within the cutoff
    "velocity all create 3000 7 loop geom",
    "fix 1 all nve",
    "fix spread all pair 2 pyfit energy_std 1 fx_std 1 fy_std 1 fz_std 1 grade 1",
    "compute numbers all pair pyfit",
    "compute virial all centroid/stress/atom NULL virial",
    "compute half all stress/atom NULL virial",
    "compute energy all pe/atom",
    "compute sum all reduce sum c_virial[*] c_half[*] c_energy",
    "thermo_style custom step pe press c_numbers[*] c_sum[*]",
    "thermo 1",
    "neigh_modify every 1 delay 0 check no",
    "run 4",
    "minimize 0 0 3 5",
]


@pytest.mark.parametrize(
    "settings",
    [
        {"gi_mode": 6, "legendre_orders": (0, 1, 2, 3), "cross_terms": 2, "triples": ((1, 1, 2), (1, 2, 3))},
        {"gi_mode": 3},
    ],
    ids=["mode 6", "mode 3"],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_dynamics(run_sanitized: Runner, settings: dict[str, object], ranks: int, tmp_path: Path) -> None:
    files = save_committee(tmp_path / "potentials", 3, ("Si", "C"), cutoff=3.3, **settings)
    atoms = crystal((2, 2, 2), second="C")
    uncertainty = sample_uncertainty(atoms, load_potentials([str(file) for file in files]), n_clusters=[4, 0])
    save_uncertainty(uncertainty, tmp_path / "fit.uncertainty.txt")
    words = f"{coefficients(files)} uncertainty fit.uncertainty.txt"
    start = run_sanitized.setup(atoms, words, style="pyfit forces_std yes")
    assert "Total wall time" in run_sanitized(*start, *EVERYTHING, ranks=ranks)


@pytest.mark.parametrize("form", ["squared", "plain"])
@pytest.mark.parametrize("bare", [False, True])
def test_informed_potentials(run_sanitized: Runner, form: str, bare: bool, tmp_path: Path) -> None:
    """Files of both forms, with one atom, and with a crystal and more atoms of another element than of one."""
    elements = ("Si",) if form == "plain" else ("Si", "C")
    potential = make_bond_order(elements, form, bare=bare)
    files = [tmp_path / f"{k}{ending_of(potential)}" for k in range(3)]
    for file in files:
        save_potential(potential, file)
    words = coefficients(files, " ".join(elements))
    lone = run_sanitized.setup(Atoms("Si", [[1, 1, 1]], cell=[12] * 3, pbc=True), words, elements=elements)
    run_sanitized(*lone, "run 0")
    start = run_sanitized.setup(crystal((2, 2, 2), second=elements[-1] if len(elements) > 1 else None), words)
    start = [line.replace("pair_style pyfit", "pair_style pyfit forces_std yes") for line in start]
    everything = [line.replace(" grade 1", "") for line in EVERYTHING]
    assert "Total wall time" in run_sanitized(*start, *everything, ranks=2)


def test_few_atoms_and_another_potential(run_sanitized: Runner, tmp_path: Path) -> None:
    """Atoms alone, more of them later, and a second pair_coeff in one process."""
    one, two = save_committee(tmp_path / "one", 1), save_committee(tmp_path / "two", 2, gi_mode=1, hidden=())
    start = run_sanitized.setup(Atoms("Si", [[1, 1, 1]], cell=[12] * 3, pbc=True), coefficients(one, "Si"))
    more = [
        "lattice diamond 5.43",
        "create_atoms 1 box",
        "displace_atoms all random 0.3 0.3 0.3 5",
        "delete_atoms overlap 1.0 all all",
    ]
    output = run_sanitized(
        *start, "run 0", *more, "run 2", f"pair_coeff {coefficients(two, 'Si')}", "run 2", "clear", *start, "run 1"
    )
    assert "Total wall time" in output


@pytest.mark.parametrize("content", ["", "5 0.5 1\n", "\0", "5 0.5 1\n1\nSi 28\n0 1 4 1 1\n999999999 1\n"])
def test_faulty_files(run_sanitized: Runner, content: str) -> None:
    (run_sanitized.folder / "nn.dat").write_text(content)
    with pytest.raises(Failure, match=r"ERROR: pair_style pyfit: nn\.dat"):
        run_sanitized(*run_sanitized.setup(crystal(), "* * nn.dat Si"))


def test_the_end_of_a_run(run_sanitized: Runner, tmp_path: Path) -> None:
    (file,) = save_committee(tmp_path / "potentials", 1)
    potential = load_potentials(str(file))
    save_uncertainty(sample_uncertainty(crystal(), potential, n_clusters=[4]), tmp_path / "u.txt")
    start = run_sanitized.setup(crystal(), f"* * {file} Si uncertainty u.txt", style="pyfit grade_stop 0.01")
    with pytest.raises(Failure, match="farthest out: input"):
        run_sanitized(*start, "run 0", ranks=2)


def test_a_fault_is_seen(compiler: tuple[str, ...], libraries: str, tmp_path: Path) -> None:
    """The sanitizers end a program that reads beyond an array."""
    source = tmp_path / "fault.cpp"
    source.write_text(
        "#include <vector>\nint main(int n, char **) { std::vector<int> v(3); return v.data()[n + 2]; }\n"
    )
    subprocess.run([*compiler, *FLAGS, source, "-o", tmp_path / "fault"], check=True)
    done = subprocess.run([tmp_path / "fault"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
