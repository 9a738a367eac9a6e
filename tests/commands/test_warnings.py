"""Warnings of `train`, `evaluate` and the classic job about numbers that mean less than they seem to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands.helpers import done, fresh_potential, poscar_blocks, set_up, write_poscar

import pyfit_gpu as pf
from pyfit_gpu.datasets.duplicates import CopiesAcross
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

SI = ("--potential", "si.nn.dat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def train(set_path: str, *words: object, potential: str = "si.nn.dat", out: str = "out.nn.dat") -> str:
    return done("train", set_path, "--potential", potential, "--out", out, "--steps", 1, *words).said


def prepare(*words: object) -> None:
    done("prepare", *words, "--e-shift", "106")


class TestSplits:
    def test_copies_in_the_set(self) -> None:
        prepare("si.poscar.dat", "si.poscar.dat", *SI, "--out", "twice.h5")
        said = train("twice.h5")
        assert "warning: 34 of 68 structures are copies of others in the set" in said
        assert "another side" not in said

    def test_none_without(self) -> None:
        prepare("si.poscar.dat", *SI, "--out", "s.h5")
        assert "warning" not in train("s.h5")

    def test_copies_of_test_structures(self) -> None:
        blocks = poscar_blocks("si.poscar.dat")
        write_poscar("t.dat", blocks[:5], ["t"])
        prepare("si.poscar.dat", "t.dat", *SI, "--out", "s.h5")
        said = train("s.h5", "--test-groups", "t")
        assert "warning: 5 structures are copies of test structures: they neither train nor validate" in said

    def test_a_stored_split_is_taken_as_it_is(self) -> None:
        """Drawn by an earlier version, it may have copies on both sides."""
        prepare("si.poscar.dat", "si.poscar.dat", *SI, "--out", "twice.h5")
        whole = pf.load_training_set("twice.h5")
        pf.save_split("twice.h5", "old", whole.plan_split(0.5, 3, rule=1))
        said = train("twice.h5", "--split", "old")
        assert "of 34 validation structures have copies on another side of the split" in said

    def test_the_classic_job_keeps_its_split(self) -> None:
        """Which structures validate is the classic program's: only their number is said."""
        Path("twice.dat").write_text(Path("si.poscar.dat").read_text() * 2)
        said = done(
            *("run", "--dft-input-file=twice.dat", "--neural-network-in=si.nn.dat", "--neural-network-out=o.nn.dat"),
            *("--generate-training-set", "--run-training", "--training-set-output-file=s.dat", "--e-shift=106"),
            *("--training-iterations=1", "--validation-ratio=0.5", "--validation-split-seed=3"),
        ).said
        whole = pf.load_training_set("s.dat")
        classic = whole.plan_split(0.5, 3, rule=1)
        n = CopiesAcross.of(classic, whole.first_copies).validation
        assert 0 < n < len(classic.validation)
        assert f"{n} of {len(classic.validation)} validation structures have copies on another side" in said

    def test_five_hundred_groups_of_one(self) -> None:
        """They validate together; where none does, the message is no longer than a line."""
        write_poscar("many.dat", poscar_blocks("si.poscar.dat"), [f"group_{k}" for k in range(34)])
        prepare("many.dat", *SI, "--out", "many.h5")
        said = train("many.h5")
        assert "31 structures train" in said
        assert "without a validation structure" not in said
        said = train("many.h5", "--train-fraction", "0.999", "--overwrite")
        line = next(line for line in said.splitlines() if "without a validation structure" in line)
        assert line.endswith("group_12, group_13, ... (28 more)")


class TestRunsOfEarlierVersions:
    def test_they_go_on_with_their_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their run files say nothing of a rule: theirs was the classic one."""
        from pyfit_gpu.commands.train import preparation

        prepare("si.poscar.dat", "si.poscar.dat", *SI, "--out", "twice.h5")
        monkeypatch.setattr(preparation, "SPLIT_RULE", 1)
        resumption = preparation.Job._resumption

        def without_rule(self, settings, data, drawn, earlier):  # type: ignore[no-untyped-def]
            drawn = {name: value for name, value in drawn.items() if name != "split rule"}
            return resumption(self, settings, data, drawn, earlier)

        with monkeypatch.context() as patch:
            patch.setattr(preparation.Job, "_resumption", without_rule)
            assert "have copies on another side" in train("twice.h5", "--train-fraction", "0.5")
        monkeypatch.setattr(preparation, "SPLIT_RULE", 2)
        for steps in (2, 3):
            said = train("twice.h5", "--train-fraction", "0.5", "--steps", steps, "--resume")
            assert "have copies on another side" in said
        said = train("twice.h5", "--train-fraction", "0.5", "--overwrite")
        assert "have copies on another side" not in said


@pytest.fixture
def silicon_of_two() -> None:
    """A fresh potential of Si and C, and a set of silicon alone."""
    done("new", "--elements", "Si", "C", "--cutoff", "4", "--out", "sic.nn.dat", "--quiet")
    frames = [frame for frame in read_frames("si.poscar.dat") if isinstance(frame, Frame)]
    named = [replace(frame, atomic_numbers=np.full(frame.n_atoms, 14)) for frame in frames]
    write_extxyz("si.xyz", named)
    carbon = [replace(frame, atomic_numbers=np.full(frame.n_atoms, 6)) for frame in frames[:3]]
    write_extxyz("mixed.xyz", [*named[:4], *carbon])
    write_extxyz("both.xyz", [*named, *carbon])
    done("prepare", "si.xyz", "--potential", "sic.nn.dat", "--out", "si.h5", "--e-shift", "106")
    done("prepare", "both.xyz", "--potential", "sic.nn.dat", "--out", "both.h5", "--e-shift", "106")


ABSENT = "warning: no atom of C trains: its network keeps its starting parameters"


@pytest.mark.usefixtures("silicon_of_two")
class TestUntrainedElements:
    def evaluate(self, potential: str, *others: str) -> str:
        words = ("evaluate", "mixed.xyz", "--potential", potential, *others, "--out", "e.csv", "--overwrite")
        return done(*words).said

    def test_trained_and_asked_about(self) -> None:
        assert ABSENT in train("si.h5", potential="sic.nn.dat")
        assert pf.load_potential("out.nn.dat").untrained == ("C",)
        expected = "warning: 3 of 7 structures have atoms of C, on which nothing was trained"
        assert expected in self.evaluate("out.nn.dat")
        assert expected in self.evaluate("out.run.h5")
        assert "untrained     C" in done("info", "out.nn.dat").said
        said = done("evaluate", "si.xyz", "--potential", "out.nn.dat", "--out", "e.csv", "--overwrite").said
        assert "nothing was trained" not in said

    def test_it_stays_until_it_is_trained(self) -> None:
        train("si.h5", potential="sic.nn.dat")
        assert ABSENT in train("si.h5", potential="out.nn.dat", out="next.nn.dat")
        assert pf.load_potential("next.nn.dat").untrained == ("C",)
        assert "no atom" not in train("both.h5", potential="next.nn.dat", out="both.nn.dat")
        assert pf.load_potential("both.nn.dat").untrained == ()
        assert "nothing was trained" not in self.evaluate("both.nn.dat")

    def test_a_trained_element_stays_trained(self) -> None:
        """Its parameters are not random, though no atom of it trains now."""
        train("both.h5", potential="sic.nn.dat")
        assert ABSENT in train("si.h5", potential="out.nn.dat", out="next.nn.dat")
        assert pf.load_potential("next.nn.dat").untrained == ()

    def test_drawn_anew(self) -> None:
        train("both.h5", potential="sic.nn.dat")
        train("si.h5", "--members", 2, "--randomize", potential="out.nn.dat", out="next.nn.dat")
        assert pf.load_potential("next.m001.nn.dat").untrained == ("C",)

    def test_resumed(self) -> None:
        train("si.h5", potential="sic.nn.dat")
        assert ABSENT in train("si.h5", "--steps", 2, "--resume", potential="sic.nn.dat")
        assert pf.load_potential("out.nn.dat").untrained == ("C",)

    def test_structures_without_weight_train_nothing(self) -> None:
        carbon = [frame for frame in read_frames("both.xyz") if 6 in frame.element_counts]
        silicon = [frame for frame in read_frames("both.xyz") if 6 not in frame.element_counts]
        write_extxyz("w.xyz", [*silicon, *(replace(frame, group="c") for frame in carbon)])
        done("prepare", "w.xyz", "--potential", "sic.nn.dat", "--out", "w.h5", "--e-shift", "106")
        assert "no atom" not in train("w.h5", potential="sic.nn.dat")
        assert ABSENT in train("w.h5", "--group-weight", "c=0", potential="sic.nn.dat", out="w.nn.dat")

    def test_one_of_several(self) -> None:
        train("si.h5", potential="sic.nn.dat", out="a.nn.dat")
        train("both.h5", potential="sic.nn.dat", out="b.nn.dat")
        assert "nothing was trained" in self.evaluate("b.nn.dat", "a.nn.dat")


class TestEqualMembers:
    @pytest.fixture(autouse=True)
    def potentials(self) -> None:
        prepare("si.poscar.dat", *SI, "--out", "s.h5")
        shutil.copy("si.nn.dat", "copy.nn.dat")
        train("s.h5", out="other.nn.dat")
        train("s.h5", "--steps", 2, out="third.nn.dat")
        shutil.copy("other.nn.dat", "same.nn.dat")

    def test_evaluate(self) -> None:
        words = ("evaluate", "si.poscar.dat", "--out", "e.csv", "--overwrite", "--potential")
        said = done(*words, "other.nn.dat", "third.nn.dat", "same.nn.dat").said
        assert "warning: members other.nn.dat, same.nn.dat are equal: the spread says nothing of them" in said
        assert "equal" not in done(*words, "third.nn.dat", "other.nn.dat").said

    def test_starts_of_train(self) -> None:
        words = ("train", "s.h5", "--steps", 0, "--out", "t.nn.dat", "--potential", "si.nn.dat")
        assert "warning: members si.nn.dat, copy.nn.dat are equal" in done(*words, "copy.nn.dat").said
        fresh_potential("random.nn.dat", "3 40 5 1")
        assert "equal" not in train("s.h5", "--members", 3, potential="random.nn.dat")

    def test_members_of_a_run(self) -> None:
        train("s.h5", "--members", 2, "--randomize", out="k.nn.dat")
        words = ("evaluate", "si.poscar.dat", "--out", "e.csv", "--potential", "k.run.h5", "k.m001.nn.dat")
        assert "warning: members 2, 3 are equal" in done(*words, "--e-shift", "106").said
