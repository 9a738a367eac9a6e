"""Every kind of file is told by its content, and `info` says what is in it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import program_samples as samples
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from program_outputs import ESPRESSO
from sample_sets import NAN, make_potential, make_set, save_shard
from vasp_samples import Run as VaspRun
from vasp_samples import ml_ab, outcar, vasprun

from pyfit_gpu.commands.convert import convert
from pyfit_gpu.commands.fit.record import Record
from pyfit_gpu.commands.info import info
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.kinds import (
    CLASSIC_CONFIG,
    COMMAND_KINDS,
    DIAGNOSIS,
    ENERGY_TABLE,
    ENERGY_VOLUME_LOG,
    ERROR_LOG,
    FIT,
    GROUP_LOG,
    RANKING,
    REPORT,
    UNCERTAINTY,
)
from pyfit_gpu.commands.prepare import prepare
from pyfit_gpu.commands.report import EnergyTable, save_csv
from pyfit_gpu.commands.train.logs import EnergyVolumeLog, LossLog, ValidationLog
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.doctor.findings import Diagnosis, Finding
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import kinds
from pyfit_gpu.formats.dft_inputs import survey
from pyfit_gpu.formats.head import read_head
from pyfit_gpu.formats.kinds import (
    ASE,
    DEEPMD,
    DFT_TEXT,
    EXTXYZ,
    FITSNAP,
    HDF5_SET,
    MANIFEST,
    ML_AB,
    MTP,
    OUTPUT,
    PINN,
    POTENTIAL,
    PYMATGEN,
    QBOX,
    RUN,
    RUNNER,
    TEXT_SET,
    VASP_OUTCAR,
    VASP_XML,
    FileKind,
)
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.formats.opening import load_potentials, load_structures, load_training_set
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.run_file import Run, load_run, save_run
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.formats.training_set.shards import Shard
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import FitState, fit
from pyfit_gpu.training.settings import FitSettings

STRUCTURE = """\
group_a weight=2
1.0
4.0 0 0
0 4.0 0
0 0 4.0
2
cartesian
0 0 0
2.0 2.0 2.0
-10.5
"""


def set_with_unknowns() -> TrainingSet:
    """Five structures, 12 atoms; one without an energy, one without forces, two without stress."""
    made = make_set([2, 1, 3, 4, 2], energy=[-1.0, NAN, -1.5, -2.0, -1.2], energy_shift=(0.795023,))
    forces = made.forces.clone()
    forces[3:6] = NAN
    stress = made.stress.clone()
    stress[:2] = NAN
    return replace(made, forces=forces, stress=stress)


def write_run(path: Path, rows: int = 2) -> None:
    """A fit of three steps after two of them, or before the first."""
    potential = make_potential().random_members(range(2), 1)
    states: list[FitState] = []
    fit(potential, make_set(), steps=3, checkpoint=lambda state, last: states.append(state()))
    save_run(Run(potential, states[1 + rows if rows else 0], {"steps": 3}, {}, {}, first_member=4, done=False), path)


def save_parts(path: Path) -> None:
    for index in range(2):
        save_shard(set_with_unknowns().select(range(index, 5, 2)), path.with_suffix(".h5"), Shard(index, 2, 5, "x"))


def write_logs(folder: Path) -> None:
    train = make_set()
    observers = [
        LossLog(folder / "loss"),
        ValidationLog(folder / "validation"),
        EnergyVolumeLog(folder / "energy_volume", train.volume_per_atom, 2),
    ]
    settings = FitSettings(steps=6, validation_interval=3)
    fit(make_potential(), train, make_set(seed=3), settings=settings, observers=observers)
    for observer in observers:
        observer.close()


def write_ase(path: Path, format: str) -> None:
    frames = []
    for symbols in ("Si", "SiCSi"):
        n = len(Atoms(symbols))
        atoms = Atoms(symbols, 2.2 * np.eye(3)[:n], cell=[6, 6, 6], pbc=True)
        atoms.info |= {"energy": -5.0 * n, "config_type": "crystal"}
        frames.append(atoms)
    write(path, frames, format=format)


def write_pinn(path: Path) -> None:
    own = path.with_suffix(".pinn")
    save_potential(replace(make_potential(n_outputs=8), form="plain", use_baseline=True), own)
    own.rename(path)


def write_table(path: Path) -> None:
    values = np.linspace(-1, 1, 4)
    save_csv(EnergyTable(("a",) * 4, np.arange(1, 5), values + 20, values, values), path)


# kind: (how to make such a file, lines that `info` must have, as regular expressions)
KINDS: dict[FileKind, tuple[Callable[[Path], object], list[str]]] = {
    POTENTIAL: (
        lambda path: save_potential(make_potential(("Si", "C")), path),
        [
            r"network +straight, 18-5-4-1, 248 parameters",
            r"activation +1 .*",
            r"e_shift +unknown",
            r"elements +Si C",
            r"inputs +18, gi_mode 5 .*",
            r"cutoff +4\.3 Å, width 1\.1 Å",
            r"orders +0 2",
            r"Gaussians +centres 1\.7 2\.5 3\.3 Å, width 0\.8 Å",
        ],
    ),
    PINN: (
        write_pinn,
        [
            r"network +physically informed \(plain form, 8 bond-order parameters\), 6-5-4-8, 99 parameters",
            r"baseline +Si: 0 0 0 0 0 0 0 0",
        ],
    ),
    HDF5_SET: (
        lambda path: save_training_set(set_with_unknowns(), path),
        [
            r"structures +5, 4 with an energy, 4 with forces, 3 with stress",
            r"atoms +12",
            r"groups +3: a \(2\), b \(2\), c \(1\)",
            r"e_shift +0\.795023 eV/atom",
            r"energies +0\.1950\d* to 0\.295\d* eV/atom, e_shift added",
            r"elements +Si",
        ],
    ),
    MANIFEST: (save_parts, [r"structures +5, 4 with an energy, 4 with forces, 3 with stress", r"atoms +12"]),
    TEXT_SET: (
        lambda path: write_text_set(set_with_unknowns(), path),
        [r"structures +5, 4 with an energy, 0 with forces, 0 with stress", r"atoms +12", r"e_shift +0\.795023 .*"],
    ),
    DFT_TEXT: (
        lambda path: path.write_text(STRUCTURE + STRUCTURE.replace("group_a", "NO_DFT_b")),
        [
            r"structures +2, 1 with an energy, 0 with forces, 0 with stress",
            r"atoms +4, at most 2 in a structure",
            r"elements +not named in the file",
            r"groups +2: .*group_a \(1\).*",
        ],
    ),
    EXTXYZ: (
        lambda path: write_ase(path, "extxyz"),
        [
            r"structures +2, 2 with an energy, 0 with forces, 0 with stress",
            r"atoms +4, at most 3 in a structure",
            r"elements +C Si",
            r"groups +1: crystal \(2\)",
        ],
    ),
    ASE: (
        lambda path: write_ase(path, "traj"),
        [
            r"structures +2, 2 with an energy, 0 with forces, 0 with stress",
            r"atoms +4, at most 3 in a structure",
            r"elements +C Si",
            r"groups +1: crystal \(2\)",
        ],
    ),
    OUTPUT: (
        lambda path: path.write_text(ESPRESSO),
        [r"structures +1, 1 with an energy, 1 with forces, 1 with stress", r"elements +Si"],
    ),
    QBOX: (lambda path: path.write_text(samples.QBOX), [r"structures +1, 1 with an energy, 1 with forces, 1 .*"]),
    DEEPMD: (samples.write_deepmd, [r"structures +1, 1 with an energy, 1 with forces, 1 with stress"]),
    RUNNER: (lambda path: path.write_text(samples.RUNNER), [r"structures +1, 1 with an energy, 1 with forces, 0 .*"]),
    MTP: (lambda path: path.write_text(samples.MTP), [r"structures +1, 1 with an energy, 1 with forces, 1 .*"]),
    FITSNAP: (samples.write_fitsnap, [r"structures +1, 1 with an energy, 1 with forces, 1 with stress"]),
    PYMATGEN: (samples.write_pymatgen, [r"structures +1, 1 with an energy, 1 with forces, 1 with stress"]),
    **{
        kind: (
            lambda path, text=text: path.write_text(text(VaspRun())),  # type: ignore[misc]
            [
                r"structures +2, 2 with an energy, 2 with forces, 2 with stress",
                r"atoms +4, at most 2 in a structure",
                r"elements +Si",
            ],
        )
        for kind, text in ((VASP_XML, vasprun), (VASP_OUTCAR, outcar), (ML_AB, ml_ab))
    },
    CLASSIC_CONFIG: (
        lambda path: path.write_text('// of 2019\n{"run_training": true, "training_iterations": 7, "e_shift": 1.5}\n'),
        [r"tasks +run_training", r"training_iterations = 7", r"e_shift = 1\.5"],
    ),
    ENERGY_VOLUME_LOG: (
        lambda path: write_logs(path.parent) or (path.parent / "energy_volume").rename(path),
        [r"structures +5", r"steps +4 saved, 000000 to 000006"],
    ),
    ERROR_LOG: (
        lambda path: write_logs(path.parent) or (path.parent / "validation").rename(path),
        [r"rows +3, steps 0 to 6", r"error +\S+ to \S+ eV/atom, least \S+ at step \d"],
    ),
    ENERGY_TABLE: (write_table, [r"structures +4"]),
    RUN: (
        write_run,
        [
            r"state +to be resumed, 2 members, 3 steps asked for",
            r"member 4 +running, step 2, loss \S+ eV/atom",
            r"elements +Si",
        ],
    ),
    GROUP_LOG: (
        lambda path: path.write_text(
            "step,part,a,b\n000000,train,5E-01,7E-01\n000004,train,1E-01,2E-01\n000004,validation,nan,3E-01\n"
        ),
        [r"groups +2", r"train +step 4: a 0\.1, b 0\.2 eV/atom", r"validation +step 4: a nan, b 0\.3 eV/atom"],
    ),
    UNCERTAINTY: (
        lambda path: path.write_text(
            "pyfit-gpu-uncertainty 1\npotential 00abcdef\nelements Si C\ninputs 2\nbegin grade\nelement Si 1\n"
            "scale 1 1\ncluster 30 0 9.5\ncenter 1 2\nelement C 0\nscale 1 1\nend grade\nend 94299a61\n"
        ),
        [r"potential +checksum 00abcdef, 2 inputs", r"grade +Si: 30 training atoms in 1 cluster(\n|$)"],
    ),
    REPORT: (
        lambda path: path.write_text(
            '{"format": "pyfit-gpu report", "version": 1, "title": "A", "subtitle": "Si", "violations": ["x: 1"], '
            '"values": [{"name": "energy-rmse", "of": "", "value": 1.5, "unit": "meV/atom"}], "sections": []}'
        ),
        [r"about +A, Si", r"energy-rmse +1\.5 meV/atom", r"limits +1 broken"],
    ),
    DIAGNOSIS: (
        lambda path: path.write_text(
            json.dumps(
                Diagnosis.of(
                    [Finding("net force", "error", "..", ("a", "b"))],
                    {"structures": 3, "atoms": 1, "elements": ["Si", "C"], "files": {"a.xyz": 3}},
                ).as_dict(),
                indent=1,
            )
        ),
        [
            r"data +3 structures, 1 atom of Si C, 1 file",
            r"found +1 error, 0 warnings, 0 notes",
            r"1 +error: net force, 2 structures",
        ],
    ),
    FIT: (
        lambda path: Record(
            {"members": 4, "cutoff": None},
            {"a.xyz": "00"},
            {"hidden": [16, 16], "training": [], "energies_first": False},
            {"potential": ["new"]},
        ).save(str(path)),
        [r"data +a\.xyz", r"asked for +members 4", r"done +potential", r"not done +doctor, set, training, .*"],
    ),
    RANKING: (
        lambda path: path.write_text("rank,member,score,network\n1,2,1.5e-02,x.m002.nn.dat\n2,0,inf,x.m000.nn.dat\n"),
        [
            r"members +2",
            r"rank 1 +member 2, score 1\.5000e-02 eV/atom, x\.m002\.nn\.dat",
            r"rank 2 +member 0, score inf eV/atom, x\.m000\.nn\.dat",
        ],
    ),
}


def identify(path: str | Path) -> FileKind:
    """Identify a file as `info` does."""
    return kinds.identify(path, COMMAND_KINDS)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.title)
def kind(request: pytest.FixtureRequest) -> FileKind:
    return request.param


@pytest.fixture
def path(kind: FileKind, tmp_path: Path) -> Path:
    """A file of the kind whose name says nothing (a manifest must be called .json, to find its shards)."""
    path = tmp_path / "file.json"
    KINDS[kind][0](path)
    if kind is not MANIFEST:
        path = path.rename(tmp_path / "file")
    return path


def test_every_kind_is_tested() -> None:
    assert set(KINDS) == {*kinds.KINDS, *COMMAND_KINDS}


def test_identify(kind: FileKind, path: Path) -> None:
    assert identify(path) is kind
    assert identify(str(path)) is kind


READING = {RUNNER: ReadOptions(units="eV,Ang")}  # what the sample leaves open


def test_info(kind: FileKind, path: Path) -> None:
    first, *lines = info(path, reading=READING.get(kind)).splitlines()
    assert first == f"{path}: {kind.title}"
    assert len(lines) <= 12
    stripped = [line.strip() for line in lines]
    for expected in KINDS[kind][1]:
        assert any(re.fullmatch(expected, line) for line in stripped), (expected, lines)


DAMAGE: dict[FileKind, Callable[[bytes], bytes]] = {
    PINN: lambda raw: raw.rsplit(b"\n", 2)[0],
    POTENTIAL: lambda raw: raw.rsplit(b"\n", 2)[0],
    HDF5_SET: lambda raw: raw[:-50],
    MANIFEST: lambda raw: raw[:-5],
    TEXT_SET: lambda raw: raw.rsplit(b"\n", 2)[0],
    DFT_TEXT: lambda raw: raw.rsplit(b"\n", 3)[0],
    VASP_XML: lambda raw: raw.rsplit(b"\n", 2)[0],
    VASP_OUTCAR: lambda raw: raw.rsplit(b"\n", 3)[0],
    ML_AB: lambda raw: raw.rsplit(b"\n", 2)[0],
    EXTXYZ: lambda raw: raw.rsplit(b"\n", 2)[0],
    ASE: lambda raw: raw[: len(raw) // 2],  # the end of a trajectory is a table of places, mostly empty
    CLASSIC_CONFIG: lambda raw: raw[:-5],
    ERROR_LOG: lambda raw: raw + b"not a row\n",
    OUTPUT: lambda raw: raw.rsplit(b"\n", 2)[0],
    QBOX: lambda raw: raw.rsplit(b"</iteration>")[0],
    RUNNER: lambda raw: raw.rsplit(b"\n", 2)[0],
    MTP: lambda raw: raw.rsplit(b"\n", 2)[0],
    FITSNAP: lambda raw: raw[:-5],
    PYMATGEN: lambda raw: raw[:-5],
    RUN: lambda raw: raw[:-50],
    GROUP_LOG: lambda raw: raw.rsplit(b",", 1)[0],
    REPORT: lambda raw: raw[:-5],
    DIAGNOSIS: lambda raw: raw[:-5],
    FIT: lambda raw: raw[:-5],
    RANKING: lambda raw: raw.rsplit(b",", 1)[0],
    UNCERTAINTY: lambda raw: raw.replace(b"9.5", b"9.6"),
}


@pytest.mark.parametrize("kind", DAMAGE, ids=lambda kind: kind.title, indirect=True)
def test_info_reads_the_whole_file(kind: FileKind, path: Path) -> None:
    """A file that has lost its end is not described as if it were whole."""
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(str(path))):
        info(path, reading=READING.get(kind))


HOSTILE: dict[FileKind, list[bytes]] = {
    ERROR_LOG: [
        b"000000 1E-01\n000001\n",
        b"000000 1E-01\n1.5 2E-01\n",
        b"000000 1E-01\n000001 \xff\n",
        b"000000 1E-01\n000001 2E-01\0\n",
        "000000 1E-01\n\u0661 2E-01\n".encode(),
        "000000 1E-01\n000001 \u0661\n".encode(),
        b"000000 1E-01 1E-01 nan nan\n000001 1E-01 x nan nan\n",
        b"000000 1E-01\n" + b"9" * 5000 + b" 1\n",
    ],
    ENERGY_VOLUME_LOG: [
        b"training_index 1E+01 2E+01\n000000 1E-01\n",
        b"training_index 1E+01 2E+01\nx 1E-01 2E-01\n",
        b"training_index 1E+01\n000000 \xff\n",
        b"training_index 1E+01\n000000 \0\n",
    ],
    ENERGY_TABLE: [
        b"index,group,n_atoms\n0,a\n",
        b"index,group,n_atoms\n0,\xff,1\n",
        b"index,group,n_atoms\n0,a\rb,1\n",
        b'index,group,n_atoms\n0,"a,1\n',
    ],
    GROUP_LOG: [
        b"step,part,a\nx,train,1\n",
        b"step,part,a\n0,train,x\n",
        b"step,part,a\n0,train,\0\n",
        b"step,part,a\n0,train\n",
        b"step,part,a\n0,train," + b"x" * 200_000 + b"\n",
    ],
    RANKING: [
        b"rank,member,score\n1,2,0.5\n",
        b"rank,member,score,network\n1,2,x,a.nn.dat\n",
        b"rank,member,score,network\n1,2,0.5\n",
        b"rank,member,network\n",
    ],
    CLASSIC_CONFIG: [
        b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"run_training": "' + b"x" * 30_000 + b'"}',
        b"{" + b" " * 100_000 + b"}",
        b'{"a": "\xff"}',
        b"{,}",
    ],
    **{
        kind: [
            begin + b', "values": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            begin + b', "version": 1, "arguments": [], "data": {}, "chosen": {}, "values": [], "summary": []}',
            begin + b', "version": 1, "arguments": {}, "data": {}, "chosen": {}}',
            begin + b', "a": "\xff"}',
        ]
        for kind, begin in (
            (REPORT, b'{"format": "pyfit-gpu report"'),
            (DIAGNOSIS, b'{"format": "pyfit-gpu diagnosis"'),
            (FIT, b'{"format": "pyfit-gpu fit"'),
        )
    },
    MANIFEST: [b'{"format": "pyfit-gpu training set manifest", "version": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"],
}


@pytest.mark.parametrize(("kind", "content"), [(kind, content) for kind in HOSTILE for content in HOSTILE[kind]],
                         ids=lambda value: getattr(value, "title", ""))  # fmt: skip
def test_hostile_content(kind: FileKind, content: bytes, tmp_path: Path) -> None:
    """A message of a screen at most, at once, and nothing else."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert identify(path) is kind
    started = time.monotonic()
    with pytest.raises(InputError, match=re.escape(str(path))) as raised:
        info(path)
    assert len(str(raised.value)) < 1000
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("load", [info, load_structures, load_training_set, load_potentials, load_run])
def test_no_waiting_for_a_pipe(load: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: cannot read: expected a file, found a pipe"):
        load(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"/dev/zero: cannot read: expected a file, found a device"):
        load(Path("/dev/zero"))


def test_loss_log(tmp_path: Path) -> None:
    (tmp_path / "loss.txt").write_text("000000 4.0000000000E-02\n000001 1.0000000000E-02\n000002 2.0000000000E-02\n")
    _, *lines = info(tmp_path / "loss.txt").splitlines()
    assert [line.strip() for line in lines] == [
        "rows          3, steps 0 to 2",
        "error         0.04 to 0.02 eV/atom, least 0.01 at step 1",
    ]


def test_a_run_that_was_killed_before_it_began(tmp_path: Path) -> None:
    write_run(tmp_path / "run.h5", rows=0)
    assert re.search(r"^  member 4      not begun$", info(tmp_path / "run.h5"), re.MULTILINE)


def test_a_potential_that_asks_for_random_weights(tmp_path: Path) -> None:
    path = tmp_path / "si.nn.dat"
    save_potential(make_potential(), path)
    lines = path.read_text().splitlines()
    assert lines[3].split()[0] == "0"
    header = [*lines[:3], lines[3].replace("0", "1", 1), *lines[4:8]]
    path.write_text("\n".join(header) + "\n")
    assert identify(path) is POTENTIAL
    assert "random" in info(path)
    assert path.read_text() == "\n".join(header) + "\n"  # an input is never changed


def test_own_files(own_data: Path) -> None:
    for path in sorted(own_data.iterdir()):
        if path.name.endswith(".nn.dat"):
            assert identify(path) is POTENTIAL, path
            assert ("bond-order" in info(path)) == path.name.startswith("pinn"), path
        elif path.suffix == ".extxyz":
            assert identify(path) is EXTXYZ, path
        elif path.name == "structures.poscar.dat":
            assert identify(path) is DFT_TEXT, path
            assert "structures    34, 34 with an energy" in info(path)


def test_a_potential_knows_its_shift(tmp_path: Path) -> None:
    potential = replace(make_potential(), energy_shift=torch.tensor([107.25], dtype=torch.float64))
    save_potential(potential, tmp_path / "si.nn.dat")
    assert "e_shift       107.25 eV/atom" in info(tmp_path / "si.nn.dat")


def test_a_manifest_in_another_layout_of_json(tmp_path: Path) -> None:
    """The specification asks for a JSON object, not for our blanks in it."""
    path = tmp_path / "set.json"
    save_parts(path)
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    assert identify(path) is MANIFEST


def test_missing_shard(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    save_parts(path)
    (tmp_path / "set.1-of-2.h5").unlink()
    assert identify(path) is MANIFEST
    with pytest.raises(InputError, match="shard 1 of 2 is missing"):
        info(path)


@pytest.mark.parametrize("function", [identify, info])
def test_bad_files(function: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=r"empty: the file is empty"):
        function(tmp_path / "empty")
    with pytest.raises(InputError, match=r"nowhere.*No such file"):
        function(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"directory"):
        function(tmp_path)
    for name, content in {"binary": bytes(range(256)), "zeros": bytes(100), "blank": b" \n\n \t\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: "):
            function(tmp_path / name)


def test_a_text_of_no_kind(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader,\n\nthis is no file of ours.\n\nYours\n")
    with pytest.raises(InputError, match=r"letter.txt"):
        info(tmp_path / "letter.txt")


def write_molecule_and_crystal(path: Path) -> None:
    """Both with a stress, which only the crystal can have."""
    atoms = [Atoms("Si2", [(0, 0, 0), (2.2, 0, 0)]), Atoms("Si2", [(0, 0, 0), (2.2, 0, 0)], cell=[5, 5, 5], pbc=True)]
    for one in atoms:
        one.calc = SinglePointCalculator(one, energy=-9.0, forces=np.zeros((2, 3)), stress=np.full(6, 0.01))
    write(path, atoms, format="extxyz")


def test_labels_are_counted_by_one_rule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target, potential = (str(tmp_path / name) for name in ("both.extxyz", "set.h5", "si.nn.dat"))
    write_molecule_and_crystal(Path(source))
    save_potential(make_potential(), potential)
    with caplog.at_level("INFO", "pyfit_gpu"):
        prepare([source], potential=potential, out=target, setup=Setup(torch.device("cpu"), quiet=True))
    labels = "2 with an energy, 2 with forces, 1 with stress"
    assert f"2 structures ({labels})" in caplog.text
    for path in (source, target):
        assert f"  structures    2, {labels}" in info(path).splitlines()


class TestTable:
    """A kind that is entered in the table can be read everywhere."""

    @pytest.fixture
    def one_atom(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file of another program: an edge length and an energy on each line."""

        def read(path: str, options: ReadOptions, wanted: Callable[[int], bool] | None) -> Iterator[Frame]:
            for number, line in enumerate(Path(path).read_text().splitlines()[1:]):
                edge, energy = map(float, line.split())
                yield Frame(
                    positions=np.zeros((1, 3)),
                    cell=edge * np.eye(3),
                    pbc=np.ones(3, dtype=bool),
                    atomic_numbers=np.array([14]),
                    group="cubic",
                    source=f"{path}, line {number + 2}",
                    energy=energy,
                )

        made = kinds.StructuresKind(title="cubes", sniff=lambda head: head.begins_with("CUBES"), read=read)
        monkeypatch.setattr(kinds, "KINDS", (made, *kinds.KINDS))
        path = tmp_path / "cubes.out"
        path.write_text("CUBES of 2026\n2.5 -5.25\n2.7 -5.5\n")
        return path

    def test_structures(self, one_atom: Path) -> None:
        assert load_structures(one_atom).energy.tolist() == [-5.25, -5.5]

    def test_info(self, one_atom: Path) -> None:
        assert "cubes.out: cubes\n  structures    2, 2 with an energy, 0 with forces, 0 with stress" in info(one_atom)

    def test_inputs(self, one_atom: Path) -> None:
        inputs = survey([str(one_atom), str(one_atom)], shard=(1, 2))
        assert [frame.source[-6:] for window in inputs.windows() for frame in window] == ["line 3", "line 3"]

    def test_convert(self, one_atom: Path, tmp_path: Path) -> None:
        setup = Setup(torch.device("cpu"), quiet=True)
        convert(str(one_atom), str(tmp_path / "cubes.extxyz"), setup=setup)
        assert load_structures(tmp_path / "cubes.extxyz").energy.tolist() == [-5.25, -5.5]
        with pytest.raises(InputError, match=r"cubes\.h5: cannot hold .*cubes, expected a name that ends in \.extxyz"):
            convert(str(one_atom), str(tmp_path / "cubes.h5"), setup=setup)

    def test_not_a_training_set(self, one_atom: Path) -> None:
        with pytest.raises(InputError, match=r"cubes\.out: expected a training set \(.*\), found cubes"):
            load_training_set(one_atom)


def test_files_are_opened_once_to_know_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides by their readers: on a shared file system every opening takes its time."""
    write_molecule_and_crystal(tmp_path / "si.extxyz")
    (tmp_path / "si.dat").write_text(STRUCTURE)
    save_training_set(make_set(), tmp_path / "set.h5")
    save_potential(make_potential(), tmp_path / "si.nn.dat")
    write_run(tmp_path / "run.h5")
    looked: list[str] = []
    monkeypatch.setattr(kinds, "read_head", lambda path: looked.append(str(path)) or read_head(path))
    monkeypatch.setattr(kinds, "is_run_file", lambda path: pytest.fail("opened to tell a set from a run"))
    for load, name in ((load_structures, "si.extxyz"), (load_structures, "si.dat"), (load_training_set, "set.h5"),
                       (load_potentials, "si.nn.dat"), (load_potentials, "run.h5")):  # fmt: skip
        load(tmp_path / name)
        assert looked == [str(tmp_path / name)]
        looked.clear()
