"""`train --validation` and `--test`: files of their own, sets or structures as DFT programs write them."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.helpers import assert_same_files, call, done, log_rows, poscar_blocks, refused, set_up, snapshot, weights
from commands.helpers import write_poscar as write

import pyfit_gpu as pf
from pyfit_gpu.commands.train import preparation
from pyfit_gpu.datasets.feature_rows import FeatureRows
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.formats.text_set import write_text_set

SHIFT = ("--e-shift", "106")
POTENTIAL = ("--potential", "si.nn.dat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty structures that train, eight that validate and six that test, as DFT files and as sets."""
    set_up(tmp_path, monkeypatch)
    blocks = poscar_blocks("si.poscar.dat")
    for name, (start, end) in {"a": (0, 20), "v": (20, 28), "t": (28, 34)}.items():
        write(f"{name}.dat", blocks[start:end], [f"group_{name}"])
        done("prepare", f"{name}.dat", *POTENTIAL, "--out", f"{name}.h5", *SHIFT, "--quiet")
    write_text_set(pf.load_training_set("v.h5"), "v.set.dat")


def train(*words: object, out: str = "out.nn.dat", steps: int = 3) -> str:
    return done("train", "a.h5", *POTENTIAL, "--out", out, "--steps", steps, *words).said


def refuse(*words: object, match: str) -> None:
    refused("train", "a.h5", *POTENTIAL, "--out", "other.nn.dat", *words, match=match)


class TestWhatIsComputed:
    @pytest.mark.parametrize("file", ["v.dat", "v.h5", "v.set.dat"])
    def test_the_whole_set_trains_and_the_file_validates(self, file: str) -> None:
        said = train("--validation", file, "--conditioning", "half", "--l2", "1e-3")
        assert "20 structures train" in said
        assert "8 validate" in said
        assert "warning" not in said
        potential, whole = pf.load_potential("si.nn.dat"), pf.load_training_set("a.h5")
        plan = whole.plan_split(1.0)
        history = pf.fit(potential, whole.select(plan.train), pf.load_training_set("v.h5"),
                         settings=pf.FitSettings(steps=3, l2=1e-3))  # fmt: skip
        np.testing.assert_allclose(
            [value for _, value in log_rows("out.validation.txt")], list(history.best.validation.values()), rtol=1e-7
        )
        trained = pf.load_potential("out.nn.dat").networks.flat()
        torch.testing.assert_close(trained, potential.networks.flat(), rtol=1e-7, atol=1e-9)

    def test_several_files(self) -> None:
        said = train("--validation", "v.dat", "t.h5")
        assert "20 structures train" in said
        assert "14 validate" in said

    def test_test_files_are_scored_at_the_end(self) -> None:
        train("--validation", "v.h5", out="plain.nn.dat")
        said = train("--validation", "v.h5", "--test", "t.dat")
        assert "6 test" in said
        assert "group_t: energy" in said
        assert weights("out.nn.dat") == weights("plain.nn.dat")

    def test_errors_are_those_of_the_potential_that_is_written(self, example_data: Path) -> None:
        """Every line is about the kept step, which is an earlier one here."""
        frames = list(read_frames(example_data / "si_dft.extxyz"))
        for name, part in (("f.xyz", frames[::12]), ("w.xyz", frames[5::20])):
            write_extxyz(name, part)
        done("prepare", "f.xyz", *POTENTIAL, "--out", "f.h5", "--e-shift", "107", "--quiet")
        words = ("--force-weight", "0.1", "--validation", "w.xyz")
        said = done("train", "f.h5", *POTENTIAL, "--out", "f.nn.dat", "--steps", "40", *words).said
        (kept,) = map(int, re.findall(r"kept: the parameters of step (\d+)", said))
        assert kept < 40
        again = done("train", "f.h5", "--potential", "f.nn.dat", "--out", "g.nn.dat", "--steps", "0", *words).said
        for part in ("training", "validation"):
            assert re.findall(rf"{part} RMSE: .*", said) == re.findall(rf"{part} RMSE: .*", again) != []

    def test_beside_a_split(self) -> None:
        plain = train(out="plain.nn.dat")
        said = train("--test", "t.h5")
        assert weights("out.nn.dat") == weights("plain.nn.dat")
        line = next(line for line in plain.splitlines() if " structures train" in line)
        assert line.split(", split")[0] in said
        assert "6 test" in said

    def test_beside_test_groups_and_a_stored_split(self) -> None:
        blocks = poscar_blocks("si.poscar.dat")
        write("b.dat", blocks[:20], ["x", "y"])
        done("prepare", "b.dat", *POTENTIAL, "--out", "b.h5", *SHIFT)
        for _ in range(2):  # drawn, then as it is stored
            said = done("train", "b.h5", *POTENTIAL, "--out", "out.nn.dat", "--steps", 1, "--split", "s",
                        "--test-groups", "x", "--test", "t.dat", "--overwrite").said  # fmt: skip
            assert "16 test" in said
        assert pf.load_training_set("b.h5").splits["s"].n_structures == 20

    def test_structures_without_an_energy_take_no_part(self) -> None:
        frames = list(read_frames("v.dat"))
        write_extxyz("part.xyz", [frames[0], replace(frames[1], energy=None), *frames[2:4]])
        assert "3 validate" in train("--validation", "part.xyz")

    def test_features_of_the_set_stay_in_its_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Though those of the other file are in memory: a set may be larger than that."""
        seen = []
        plan = preparation.Job._plan_memory

        def watch(self, potential, whole, settings):  # type: ignore[no-untyped-def]
            seen.append(whole.features)
            return plan(self, potential, whole, settings)

        monkeypatch.setattr(preparation.Job, "_plan_memory", watch)
        train("--validation", "v.dat")
        assert isinstance(seen[0], FeatureRows)
        parts = [pf.load_training_set(f"{name}.h5").features for name in "av"]
        assert torch.equal(seen[0].tensor(), torch.cat(parts))

    def test_labels_under_other_names(self) -> None:
        text = Path("v.xyz")
        write_extxyz(text, read_frames("v.dat"))
        text.write_text(text.read_text().replace(" energy=", " my_e="))
        assert "8 validate" in train("--validation", "v.xyz", "--energy-key", "my_e")


class TestCopies:
    def test_between_the_set_and_the_files(self) -> None:
        blocks = poscar_blocks("si.poscar.dat")
        write("copies.dat", blocks[17:25])
        write("tested.dat", blocks[22:30])
        said = train("--validation", "copies.dat", "--test", "tested.dat")
        assert "warning: 3 of 8 validation structures have copies on another side of the split" in said
        assert "warning: 3 of 8 test structures have copies on another side of the split" in said
        assert "copies of others in the set" not in said
        assert "20 structures train" in said


class TestRefused:
    @pytest.mark.parametrize("words", [("--seed", 3), ("--split", "s"), ("--train-fraction", 0.8)])
    def test_a_split_of_the_set_as_well(self, words: tuple[object, ...]) -> None:
        refuse("--validation", "v.h5", *words, match=f"--validation: expected without {words[0]}")

    def test_everything_trains_is_no_contradiction(self) -> None:
        train("--validation", "v.h5", "--train-fraction", 1)

    def test_another_energy_shift(self) -> None:
        done("prepare", "v.dat", *POTENTIAL, "--out", "w.h5", "--e-shift", "100")
        refuse("--validation", "w.h5", match=r"w\.h5: the training sets differ: e_shift")

    def test_other_settings(self) -> None:
        done("new", "--elements", "Si", "--cutoff", 4, "--out", "n.nn.dat")
        done("prepare", "v.dat", "--potential", "n.nn.dat", "--out", "w.h5", *SHIFT)
        refuse("--test", "w.h5", match=r"w\.h5: the training sets differ: ")

    def test_no_energy(self) -> None:
        write_extxyz("none.xyz", [replace(frame, energy=None) for frame in read_frames("v.dat")])
        refuse("--validation", "none.xyz", match=r"none\.xyz: no structure has an energy: expected some for validation")

    def test_another_kind_of_file(self) -> None:
        refuse("--test", "si.nn.dat", match=r"si\.nn\.dat: expected a training set or structures for test, found a pot")

    def test_not_there(self) -> None:
        refuse("--validation", "gone.xyz", match=r"gone\.xyz")

    def test_a_set_that_does_not_know_its_shift(self) -> None:
        whole = pf.load_training_set("a.h5")
        pf.save_training_set(replace(whole, energy_shift=None, energy=whole.energy_used), "a.h5")
        refuse("--validation", "v.dat", match=r"v\.dat: the training set does not know its e_shift")

    def test_an_output_over_a_file(self) -> None:
        words = ("train", "a.h5", *POTENTIAL, "--out", "out.nn.dat", "--validation", "v.dat", "--overwrite")
        refused(*words, "--loss-log", "v.dat", match=r"v\.dat")


class TestResume:
    WORDS = ("--validation", "v.h5", "--test", "t.dat")

    def test_goes_on_with_the_same_bits(self) -> None:
        train(*self.WORDS, steps=6, out="straight.nn.dat")
        train(*self.WORDS)
        train(*self.WORDS, "--resume", steps=6)
        assert weights("out.nn.dat") == weights("straight.nn.dat")

    def test_the_same_structures_in_another_kind_of_file(self) -> None:
        train(*self.WORDS)
        shutil.copy("t.dat", "moved.dat")
        train("--validation", "v.dat", "--test", "moved.dat", "--resume", steps=4)

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (
                ("--validation", "t.h5", "--test", "t.dat"),
                r"resume: t\.h5: expected the structures of the run for val",
            ),
            (("--validation", "v.h5", "--test", "v.dat"), r"resume: v\.dat: .* for test"),
            (("--validation", "v.h5"), r"resume: test: expected 1 files \(the run's\), got 0"),
            (("--test", "t.dat"), r"resume: validation: expected 1 files"),
            ((), r"resume: validation: expected 1 files"),
        ],
    )
    def test_other_files_are_refused(self, words: tuple[str, ...], match: str) -> None:
        train(*self.WORDS)
        before = snapshot()
        result = call("train", "a.h5", *POTENTIAL, "--out", "out.nn.dat", "--steps", 4, "--resume", *words)
        assert result.status == 2
        assert_same_files(snapshot(), before)
        assert re.search(match, result.err), result.err

    def test_files_that_the_run_did_not_have(self) -> None:
        train()
        words = ("train", "a.h5", *POTENTIAL, "--out", "out.nn.dat", "--steps", 4, "--resume", "--test", "t.dat")
        refused(*words, match=r"resume: test: expected 0 files \(the run's\), got 1")

    def test_other_labels(self) -> None:
        train(*self.WORDS)
        text = Path("t.dat").read_text().splitlines()
        text[-1] = str(float(text[-1]) + 0.01)
        Path("t.dat").write_text("\n".join(text) + "\n")
        words = ("train", "a.h5", *POTENTIAL, "--out", "out.nn.dat", "--steps", 4, "--resume", *self.WORDS)
        refused(*words, match=r"resume: t\.dat: expected the structures of the run for test, found others")
