"""The classic logs to the byte, written as the run goes; backups; progress on a terminal and off it."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from objective_values import energies_of
from sample_sets import make_potential, make_set

from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.commands.train.logs import (
    Backups,
    EnergyVolumeLog,
    GpuLog,
    GroupLog,
    LossLog,
    ProgressRows,
    ValidationLog,
)
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import LabelErrors, StepRecord
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

Write = Callable[..., str]


def row(step: int, loss: float = 0.5, validation: float | None = None, energies: tuple[float, ...] = ()) -> StepRecord:
    return StepRecord(step, loss, validation, make_potential(), lambda: torch.tensor(energies, dtype=torch.float64))


def row_with(errors: LabelErrors | None, validation: LabelErrors | None = None, step: int = 7) -> StepRecord:
    """With the errors of labels; the losses are 0.5 and 0.25."""
    return replace(row(step, 0.5, None if validation is None else 0.25), errors=errors, validation_errors=validation)


def lower_nan(path: Path) -> str:
    return path.read_text().replace(" NAN", " nan")


class TestFormats:
    def test_loss(self, tmp_path: Path) -> None:
        log = LossLog(tmp_path / "loss.txt")
        log.on_start()
        for step, loss in ((0, 0.048291734523), (1, 1.0), (25, 1.23456789012345e-7), (1234567, 98765.4321)):
            log.on_step(row(step, loss, validation=3.0))
        log.close()
        assert (tmp_path / "loss.txt").read_bytes() == (
            b"000000 4.8291734523E-02\n000001 1.0000000000E+00\n000025 1.2345678901E-07\n1234567 9.8765432100E+04\n"
        )

    def test_validation(self, tmp_path: Path) -> None:
        """Rows without a validation are left out."""
        log = ValidationLog(tmp_path / "validation.txt")
        log.on_start()
        for step in range(7):
            log.on_step(row(step, 9.0, validation=0.25 * (step + 1) if step % 3 == 0 else None))
        assert (tmp_path / "validation.txt").read_bytes() == (
            b"000000 2.5000000000E-01\n000003 1.0000000000E+00\n000006 1.7500000000E+00\n"
        )
        log.close()

    def test_energy_volume(self, tmp_path: Path) -> None:
        volumes = torch.tensor([15.5484, 21.276714, 0.0], dtype=torch.float64)
        log = EnergyVolumeLog(tmp_path / "ev.txt", volumes, interval=25)
        log.on_start()
        for step in range(60):
            log.on_step(row(step, energies=(-5.3122081, 0.1 * step, -1e-9)))
        assert (tmp_path / "ev.txt").read_bytes() == (
            b"training_index 1.554840E+01 2.127671E+01 0.000000E+00\n"
            b"000000 -5.312208E+00 0.000000E+00 -1.000000E-09\n"
            b"000025 -5.312208E+00 2.500000E+00 -1.000000E-09\n"
            b"000050 -5.312208E+00 5.000000E+00 -1.000000E-09\n"
        )
        log.close()

    def test_energies_are_computed_only_when_written(self, tmp_path: Path) -> None:
        def fail() -> torch.Tensor:
            raise AssertionError("computed for nothing")

        log = EnergyVolumeLog(tmp_path / "ev.txt", torch.ones(1), interval=5)
        log.on_start()
        log.on_step(StepRecord(3, 0.5, None, make_potential(), fail))
        log.close()

    @pytest.mark.parametrize("make", [LossLog, ValidationLog, GpuLog, lambda p: EnergyVolumeLog(p, torch.ones(2), 1)])
    def test_anew_at_every_start(self, make: Callable[[Path], LossLog], tmp_path: Path) -> None:
        """Rows of an earlier run, or of an attempt before a restart, are gone."""
        path = tmp_path / "log.txt"
        path.write_text("of an earlier run\n" * 10)
        log = make(path)
        log.on_start()
        assert "earlier" not in path.read_text()
        first = path.read_text()
        log.on_step(row(0, 0.5, 0.25, (1.0, 2.0)))
        assert len(path.read_text()) > len(first)
        log.on_start()
        assert path.read_text() == first
        log.on_step(row(0, 0.75, 0.5, (1.0, 2.0)))
        log.close()
        log.close()
        assert len(path.read_text().splitlines()) == len(first.splitlines()) + 1


class TestLabelColumns:
    """Where forces or stress take part: step, loss, energy, forces, stress."""

    CASES = (
        (
            LabelErrors({"energy": 0.125, "forces": 1.5, "stress": 0.0009765625}),
            " 1.2500000000E-01 1.5000000000E+00 9.7656250000E-04",
        ),
        (LabelErrors({"energy": 0.125, "forces": 1.5}), " 1.2500000000E-01 1.5000000000E+00 nan"),
        (LabelErrors({"energy": 0.125, "stress": 0.5}), " 1.2500000000E-01 nan 5.0000000000E-01"),
        (
            LabelErrors({"energy": 0.125, "forces": 0.0, "stress": 0.0}),
            " 1.2500000000E-01 0.0000000000E+00 0.0000000000E+00",
        ),
        (LabelErrors({"energy": 0.125}), ""),
        (None, ""),
    )

    @pytest.mark.parametrize(("errors", "columns"), CASES)
    def test_loss(self, errors: LabelErrors | None, columns: str, tmp_path: Path) -> None:
        log = LossLog(tmp_path / "loss.txt")
        log.on_start()
        log.on_step(row_with(errors, LabelErrors({"energy": 9.0, "forces": 9.0, "stress": 9.0})))
        log.close()
        assert lower_nan(tmp_path / "loss.txt") == f"000007 5.0000000000E-01{columns}\n"

    @pytest.mark.parametrize(("errors", "columns"), CASES[:-1])
    def test_validation(self, errors: LabelErrors, columns: str, tmp_path: Path) -> None:
        log = ValidationLog(tmp_path / "validation.txt")
        log.on_start()
        log.on_step(row_with(LabelErrors({"energy": 9.0, "forces": 9.0, "stress": 9.0}), errors))
        log.on_step(row_with(LabelErrors({"energy": 9.0, "forces": 9.0, "stress": 9.0}), None))
        log.close()
        assert lower_nan(tmp_path / "validation.txt") == f"000007 2.5000000000E-01{columns}\n"

    def test_nan_as_documented(self, tmp_path: Path) -> None:
        log = LossLog(tmp_path / "loss.txt")
        log.on_start()
        log.on_step(row_with(LabelErrors({"energy": 0.125, "forces": 1.5})))
        log.close()
        assert (tmp_path / "loss.txt").read_text().split()[-1] == "nan"

    def test_of_a_fit(self, mixed_frames: Callable[..., list[Frame]], tmp_path: Path) -> None:
        """Every row in both logs, with the numbers of the history; the validation structures have no forces."""
        train = build_training_set(Structures.from_frames(mixed_frames()), make_potential())
        validation = replace(train, forces=torch.full_like(train.forces, torch.nan))
        logs = [LossLog(tmp_path / "loss.txt"), ValidationLog(tmp_path / "validation.txt")]
        settings = FitSettings(steps=3, force_weight=0.1, validation_interval=2)
        history = fit(make_potential(), train, validation, settings=settings, observers=logs)
        for log in logs:
            log.close()
        expected = [
            f"{step:06d} {loss:.10E} {errors.energy:.10E} {errors.forces:.10E} nan"
            for step, (loss, errors) in enumerate(zip(history.loss, history.errors, strict=True))
        ]
        assert len(expected) == 4
        assert lower_nan(tmp_path / "loss.txt").splitlines() == expected
        expected = [f"{step:06d} {history.validation[step]:.10E}" for step in (0, 2)]
        assert (tmp_path / "validation.txt").read_text().splitlines() == expected


class TestGroupLog:
    def test_bytes(self, tmp_path: Path) -> None:
        """Validation only where it is known; a group that a part does not have, or that has no weight, is no number."""
        log = GroupLog(tmp_path / "groups.csv", ["a", 'b, "x"', "c"])
        log.on_start()
        of_training = {"a": 0.5, 'b, "x"': 0.25}
        log.on_step(replace(row(0), group_errors=of_training, validation_group_errors={"c": 1.5e-7}))
        log.on_step(replace(row(12), group_errors=of_training))
        log.close()
        assert (tmp_path / "groups.csv").read_text().replace("NAN", "nan") == (
            'step,part,a,"b, ""x""",c\n'
            "000000,train,5.0000000000E-01,2.5000000000E-01,nan\n"
            "000000,validation,nan,nan,1.5000000000E-07\n"
            "000012,train,5.0000000000E-01,2.5000000000E-01,nan\n"
        )

    def test_of_a_fit(self, tmp_path: Path) -> None:
        train, validation = make_set([2, 1, 3, 4], groups="abca"), make_set([2, 2], groups="ad", seed=2)
        log, potential = GroupLog(tmp_path / "groups.csv", "abcd"), make_potential()
        fit(
            potential,
            train,
            validation,
            settings=FitSettings(steps=2, validation_interval=2, keep="last"),
            observers=[log],
        )
        log.close()
        rows = [line.split(",") for line in (tmp_path / "groups.csv").read_text().splitlines()[1:]]
        assert [(int(cells[0]), cells[1]) for cells in rows] == [
            (0, "train"), (0, "validation"), (1, "train"), (2, "train"), (2, "validation"),
        ]  # fmt: skip
        for cells, part in ((rows[3], train), (rows[4], validation)):
            found = energies_of(Objective(part), potential.networks)[0] - part.energy_used / part.sizes
            for cell, group in zip(cells[2:], "abcd", strict=True):
                own = found[[name == group for name in part.groups]]
                expected = float(own.square().mean().sqrt()) if len(own) else math.nan
                assert float(cell) == pytest.approx(expected, rel=1e-9, nan_ok=True)


class TestResume:
    """A log goes on where the run file says that it was."""

    def written(self, path: Path) -> tuple[LossLog, tuple[int, int]]:
        log = LossLog(path)
        log.on_start()
        log.on_step(row(0, 0.5))
        log.on_step(row(1, 0.25))
        return log, log.position()

    def test_what_came_after_is_written_again(self, tmp_path: Path) -> None:
        """Rows between the last run file and the end of the process, also a row that was cut."""
        path = tmp_path / "loss.txt"
        log, position = self.written(path)
        assert position == (0, path.stat().st_size)
        assert position[1] == 2 * len("000000 5.0000000000E-01\n")
        log.on_step(row(2, 9.0))
        log.close()
        with path.open("a") as file:
            file.write("000003 1.2")
        again = LossLog(path)
        again.resume(*position)
        assert again.position() == position
        again.on_step(row(2, 0.125))
        assert again.position() == (0, path.stat().st_size)
        again.close()
        assert [line.split()[1] for line in path.read_text().splitlines()] == [
            "5.0000000000E-01", "2.5000000000E-01", "1.2500000000E-01",
        ]  # fmt: skip

    def test_before_it_begins_nothing_is_written(self, tmp_path: Path) -> None:
        assert LossLog(tmp_path / "loss.txt").position() == (0, 0)
        assert not (tmp_path / "loss.txt").exists()

    def test_a_log_that_is_too_short(self, tmp_path: Path) -> None:
        """Somebody has changed it: a gap must not go unnoticed."""
        path = tmp_path / "loss.txt"
        log, position = self.written(path)
        log.close()
        path.write_text("short\n")
        with pytest.raises(
            InputError, match=rf"loss\.txt: cannot resume: expected at least {position[1]} bytes, found 6"
        ):
            log.resume(*position)
        log.close()
        assert path.read_text() == "short\n"

    def test_a_log_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"loss\.txt: cannot resume: No such file"):
            LossLog(tmp_path / "loss.txt").resume(0, 3)

    def test_a_log_with_a_heading(self, tmp_path: Path) -> None:
        """It is not written a second time."""
        log = GroupLog(tmp_path / "groups.csv", ["é"])
        log.on_start()
        position = log.position()
        log.close()
        log.resume(*position)
        log.on_step(replace(row(1), group_errors={"é": 0.5}))
        log.close()
        assert (tmp_path / "groups.csv").read_text(encoding="utf-8") == "step,part,é\n000001,train,5.0000000000E-01\n"


class TestAsTheRunGoes:
    def test_rows_are_there_while_the_fit_runs(self, tmp_path: Path) -> None:
        """Read from outside, through the files' names, after every step."""
        train, validation = make_set(), make_set(seed=3)
        observers: list = [
            LossLog(tmp_path / "loss.txt"),
            ValidationLog(tmp_path / "validation.txt"),
            EnergyVolumeLog(tmp_path / "ev.txt", train.volume_per_atom, interval=2),
            Backups(tmp_path / "backup", interval=2),
        ]
        counts = []

        def look() -> bool:
            lines = [len((tmp_path / f"{name}.txt").read_text().splitlines()) for name in ("loss", "validation", "ev")]
            assert all(text.endswith("\n") for text in map(Path.read_text, tmp_path.glob("*.txt")))
            counts.append((*lines, len(os.listdir(tmp_path / "backup"))))
            return False

        settings = FitSettings(steps=6, validation_interval=3)
        fit(make_potential(), train, validation, settings=settings, observers=observers, should_stop=look)
        assert counts == [(1, 1, 2, 1), (2, 1, 2, 1), (3, 1, 3, 2), (4, 2, 3, 2), (5, 2, 4, 3), (6, 2, 4, 3)]
        assert len((tmp_path / "loss.txt").read_text().splitlines()) == 7
        for observer in observers[:3]:
            observer.close()

    def test_numbers_are_those_of_the_fit(self, tmp_path: Path) -> None:
        train, validation = make_set(), make_set(seed=3)
        logs = [LossLog(tmp_path / "loss.txt"), ValidationLog(tmp_path / "validation.txt")]
        history = fit(make_potential(), train, validation, steps=4, observers=logs)
        for log in logs:
            log.close()
        for name, values in (("loss", history.loss), ("validation", history.validation.values())):
            expected = "".join(f"{step:06d} {value:.10E}\n" for step, value in enumerate(values))
            assert (tmp_path / f"{name}.txt").read_text() == expected

    def test_a_restart_begins_every_log_anew(self, tmp_path: Path) -> None:
        """With a level below any loss all attempts end in row 0: one row is left, of the last attempt."""
        train = make_set()
        logs = [LossLog(tmp_path / "loss.txt"), EnergyVolumeLog(tmp_path / "ev.txt", train.volume_per_atom, 1)]
        settings = FitSettings(steps=5, error_restart_level=1e-9, seed=1)
        history = fit(make_potential(), train, settings=settings, observers=[*logs, Backups(tmp_path / "bk", 1)])
        for log in logs:
            log.close()
        assert (tmp_path / "loss.txt").read_text() == f"000000 {history.loss[0]:.10E}\n"
        assert len((tmp_path / "ev.txt").read_text().splitlines()) == 2
        assert os.listdir(tmp_path / "bk") == ["nn_bk_00000.nn.dat"]


class TestBackups:
    def test_plain_form(self, tmp_path: Path) -> None:
        """Names are those of its files, and what an earlier run left is removed whatever its form."""
        for name in ("nn_bk_00007.nn.dat", "nn_bk_00008.pinn"):
            (tmp_path / name).write_text("of an earlier run")
        backups = Backups(tmp_path, 2)
        backups.on_start()
        potential = replace(make_potential(n_outputs=8), form="plain")
        for step in range(3):
            backups.on_step(replace(row(step), potential=potential))
        assert sorted(os.listdir(tmp_path)) == ["nn_bk_00000.pinn", "nn_bk_00002.pinn"]
        assert load_potential(tmp_path / "nn_bk_00002.pinn").form == "plain"

    def test_names_and_weights(self, tmp_path: Path) -> None:
        """A complete potential each, of that step; the folder and its parents are made."""
        weights = []

        class Keep:
            def on_start(self) -> None: ...

            def on_step(self, row: StepRecord) -> None:
                weights.append(row.potential.networks.flat()[0].numpy())

        folder = tmp_path / "deep" / "nn_backup"
        potential = make_potential()
        fit(potential, make_set(energy_shift=(1.5,)), steps=7, observers=[Backups(folder, 3), Keep()])
        assert sorted(os.listdir(folder)) == ["nn_bk_00000.nn.dat", "nn_bk_00003.nn.dat", "nn_bk_00006.nn.dat"]
        for step in (0, 3, 6):
            nn = pair_sum.read_nn_dat(folder / f"nn_bk_{step:05d}.nn.dat")
            (layers,) = nn["layers"]
            found = np.concatenate([part for weight, bias in layers for part in (weight.T.ravel(), bias)])
            assert found.tobytes() == weights[step].tobytes()
            assert nn["e_shifts"] == [1.5]

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "backup").write_text("x")
        with pytest.raises(InputError, match=r"backup: cannot make the backup folder"):
            Backups(tmp_path / "backup", 1).on_start()

    def test_other_files_in_the_folder_stay(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        Backups(tmp_path, 1).on_start()
        assert (tmp_path / "notes.txt").read_text() == "mine"


class TestFaults:
    def test_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere/loss.txt: cannot write: No such file"):
            LossLog(tmp_path / "nowhere" / "loss.txt").on_start()

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
    def test_no_room(self) -> None:
        """And closing such a log afterwards raises nothing that is not an InputError."""
        log = LossLog("/dev/full")
        log.on_start()
        with pytest.raises(InputError, match=r"/dev/full: cannot write: No space left"):
            log.on_step(row(0))
        with contextlib.suppress(InputError):
            log.close()


class TestGpuLog:
    @pytest.fixture
    def fake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
        """A folder that is the whole search path, with an nvidia-smi in it that runs the given lines."""
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))

        def write(*lines: str) -> str:
            path = folder / "nvidia-smi"
            path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
            path.chmod(0o755)
            return str(path)

        return write

    def log(self, path: Path, n_rows: int) -> list[str]:
        log = GpuLog(path)
        log.on_start()
        for step in range(n_rows):
            log.on_step(row(step))
        log.close()
        return path.read_text().splitlines()

    def test_every_fifty_rows(self, fake: Write, tmp_path: Path) -> None:
        fake(
            'test "$*" = "--query-gpu=index,utilization.gpu,memory.used,memory.total --format=csv,noheader" || exit 9',
            'echo "0, 31 %, 512 MiB, 81559 MiB"',
            'echo "1, 0 %, 4 MiB, 81559 MiB"',
        )
        assert self.log(tmp_path / "gpu.txt", 101) == [
            "step,index,utilization.gpu,memory.used,memory.total",
            *[
                f"{step:06d},{reading}"
                for step in (0, 50, 100)
                for reading in ("0, 31 %, 512 MiB, 81559 MiB", "1, 0 %, 4 MiB, 81559 MiB")
            ],
        ]

    def test_no_reading_does_not_end_the_training(self, fake: Write, tmp_path: Path) -> None:
        lines = self.log(tmp_path / "none.txt", 51)
        assert [line[:18] for line in lines[1:]] == ["000000,no reading:", "000050,no reading:"]
        fake("exit 6")
        lines = self.log(tmp_path / "fails.txt", 1)
        assert re.match(r"000000,no reading: .*6", lines[1])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr("pyfit_gpu.commands.progress.time", types.SimpleNamespace(monotonic=clock.monotonic))
        return clock

    def test_off_a_terminal(self, clock: Clock) -> None:
        """A line after each interval and one at the end, each with rate and time left."""
        stream = io.StringIO()
        progress = Progress("features", 1000, "atoms", stream=stream, line_interval=10.0)
        for second in range(1, 41):
            clock.now = 1000.0 + second
            progress.update(25 * second)
        progress.close()
        assert stream.getvalue().splitlines() == [
            "features: 250/1000 atoms, 25 atoms/s, 0:10, 0:30 left",
            "features: 500/1000 atoms, 25 atoms/s, 0:20, 0:20 left",
            "features: 750/1000 atoms, 25 atoms/s, 0:30, 0:10 left",
            "features: 1000/1000 atoms, 25 atoms/s, 0:40",
        ]

    def test_uneven_parts(self, clock: Clock) -> None:
        """The last of them may take longer than all before."""
        stream = io.StringIO()
        progress = Progress("physics", 4, "parts", stream=stream, uneven=True)
        clock.now += 20
        progress.update(3, "dynamics")
        assert stream.getvalue() == "physics: 3/4 parts, dynamics, 0:20\n"

    def test_no_control_characters_in_a_log(self, clock: Clock) -> None:
        stream = io.StringIO()
        progress = Progress("features", 3, "atoms", stream=stream)
        for done in range(4):
            clock.now += 30
            progress.update(done)
        assert re.fullmatch(r"[ -~\n]+", stream.getvalue())

    def test_a_short_task_prints_its_end_only(self, clock: Clock) -> None:
        stream = io.StringIO()
        progress = Progress("features", 10, "atoms", stream=stream)
        for done in range(11):
            clock.now += 0.01
            progress.update(done)
        assert len(stream.getvalue().splitlines()) == 1
        assert "10/10 atoms" in stream.getvalue()

    @pytest.mark.parametrize(("seconds", "shown"), [(59, "0:59"), (61, "1:01"), (3599, "59:59"), (7265, "2:01:05")])
    def test_durations(self, clock: Clock, seconds: int, shown: str) -> None:
        stream = io.StringIO()
        progress = Progress("training", 2, "steps", stream=stream)
        clock.now += seconds
        progress.update(1)
        assert stream.getvalue().rstrip().endswith(f"{shown}, {shown} left")

    def test_a_limit_of_time(self, clock: Clock) -> None:
        """The time left is what the limit leaves, where the total would take longer."""
        stream = io.StringIO()
        progress = Progress("training", 1000, "steps", stream=stream, limit=60.0)
        for second, done in ((20, 2), (59, 990)):
            clock.now = 1000.0 + second
            progress.update(done)
        left = [line.rpartition(", ")[2] for line in stream.getvalue().splitlines()]
        assert left == ["0:40 left", "0:01 left"]

    def test_the_bar_follows_the_limit(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        stream = Terminal()
        progress = Progress("training", 10_000, "steps", stream=stream, limit=60.0)
        clock.now += 30
        progress.update(1)
        assert f"[{12 * '#'}{12 * '-'}]" in stream.getvalue()

    def test_on_a_terminal(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """One line that is drawn over, a bar as long as the share done."""
        monkeypatch.delenv("COLUMNS", raising=False)
        stream = Terminal()
        progress = Progress("training", 100, "steps", stream=stream)
        shares = []
        for step in range(101):
            clock.now += 1.0
            progress.update(step, f"loss {step}")
            drawn = stream.getvalue().split("\r")[-1]
            bar = re.search(r"training \[(#*)(-*)\] " + rf"{step}/100 steps, loss {step}, ", drawn)
            assert bar, drawn
            shares.append(len(bar[1]) / (len(bar[1]) + len(bar[2])))
            assert ("left" in drawn) == (0 < step < 100)
        assert shares == sorted(shares)
        np.testing.assert_allclose(shares, np.arange(101) / 100, atol=0.05)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert "\n" not in stream.getvalue()
        progress.close()
        progress.close()
        assert stream.getvalue().count("\n") == 1

    @pytest.mark.parametrize("columns", [1, 20, 30, 45, 60, 75, 200])
    def test_it_fits_the_terminal(self, columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The bar becomes shorter and goes, then the rate; only what is left then is cut."""
        monkeypatch.setenv("COLUMNS", str(columns))
        stream = Terminal()
        progress = Progress("training", 100, "steps", stream=stream)
        clock.now += 7
        progress.update(7, "loss 1.23")
        drawn = stream.getvalue().removeprefix("\r\x1b[K")
        assert len(drawn) < columns
        text = "7/100 steps, loss 1.23, 1 steps/s, 0:07, 1:33 left"
        without_rate = "7/100 steps, loss 1.23, 0:07, 1:33 left"
        expected = {
            200: f"training [#{'-' * 23}] {text}",
            75: f"training [{'-' * 12}] {text}",
            60: f"training {text}",
            45: without_rate,
            20: without_rate[:19],
        }
        assert drawn == expected.get(columns, without_rate[: columns - 1])

    def test_width_of_a_real_terminal(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        monkeypatch.setattr("os.get_terminal_size", lambda handle: os.terminal_size((30, 24)))
        stream = Terminal()
        stream.fileno = lambda: 2  # type: ignore[method-assign]
        progress = Progress("training", 100, "steps", stream=stream)
        clock.now += 7
        progress.update(7, "loss 1.23")
        assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 29

    def test_a_terminal_is_not_flooded(self, clock: Clock) -> None:
        stream = Terminal()
        progress = Progress("training", 10_000, "steps", stream=stream)
        for step in range(10_000):
            clock.now += 0.001
            progress.update(step)
        assert 50 <= stream.getvalue().count("\r") <= 101

    def test_restart(self, clock: Clock) -> None:
        """Rate and time left count from the restart."""
        stream = io.StringIO()
        progress = Progress("training", 100, "steps", stream=stream, line_interval=10.0)
        clock.now += 500
        progress.restart()
        clock.now += 9
        progress.update(9)
        assert stream.getvalue() == ""
        clock.now += 1
        progress.update(10)
        assert stream.getvalue() == "training: 10/100 steps, 1 steps/s, 0:10, 1:30 left\n"

    @pytest.mark.parametrize("make", [io.StringIO, Terminal])
    def test_quiet(self, clock: Clock, make: Callable[[], io.StringIO]) -> None:
        stream = make()
        progress = Progress("training", 10, "steps", quiet=True, stream=stream)
        clock.now += 100
        progress.update(10)
        progress.close()
        nothing = Progress("training", 0, "steps", stream=stream)
        nothing.update(0)
        nothing.close()
        assert stream.getvalue() == ""

    def test_standard_error_unless_told_otherwise(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        """Standard output is for results."""
        progress = Progress("training", 1, "steps")
        clock.now += 1
        progress.update(1)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "1/1 steps" in captured.err

    def test_lines_are_flushed(self, clock: Clock) -> None:
        class Counting(io.StringIO):
            flushed = 0

            def flush(self) -> None:
                self.flushed = len(self.getvalue())

        stream = Counting()
        progress = Progress("training", 1, "steps", stream=stream)
        clock.now += 1
        progress.update(1)
        assert stream.flushed == len(stream.getvalue()) > 0

    def test_rows_of_a_fit(self, clock: Clock) -> None:
        stream = io.StringIO()
        display = ProgressRows(Progress("training", 2, "steps", stream=stream, line_interval=1.0))
        display.on_start()
        for step, validation in ((0, None), (1, 0.25), (2, None)):
            clock.now += 2.0
            display.on_step(row(step, 0.5 / (step + 1), validation))
        assert stream.getvalue().splitlines() == [
            "training: 0/2 steps, loss 5.000e-01 eV/atom, 0 steps/s, 0:02",
            "training: 1/2 steps, loss 2.500e-01, validation 2.500e-01 eV/atom, 0.25 steps/s, 0:04, 0:04 left",
            "training: 2/2 steps, loss 1.667e-01 eV/atom, 0.333 steps/s, 0:06",
        ]

    def test_rows_of_a_fit_with_forces(self, clock: Clock) -> None:
        stream = io.StringIO()
        display = ProgressRows(Progress("training", 10, "steps", stream=stream, line_interval=1.0))
        clock.now += 2.0
        display.on_step(
            row_with(
                LabelErrors({"energy": 0.125, "forces": 1.2345}),
                LabelErrors({"energy": 9.0, "forces": 9.0, "stress": 9.0}),
                step=5,
            )
        )
        (line,) = stream.getvalue().splitlines()
        assert "loss 5.000e-01, validation 2.500e-01 eV/atom, forces 1.23 eV/Å" in line
