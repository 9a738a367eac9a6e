"""Splits stored in sets, against docs/formats/training_set.md: bits, layout, damage, processes at once, growth."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands.helpers import OWN, done
from forking import run_script
from formats.training_set.test_reader import LAYOUT, specified_hash
from sample_sets import NAN, assert_same_set, make_set, save_shard

from pyfit_gpu.commands.info import info
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import MANIFEST
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set import named_splits
from pyfit_gpu.formats.training_set.named_splits import named_split, save_split
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.formats.training_set.shards import Shard

GROUPS = ["b", "Å x", "a", "b", "NO_DFT", "b", "a", "b", "b", "c", "a", "a", "b"]


def make_sample() -> TrainingSet:
    """13 structures in five groups; one has no energy, group c has one structure."""
    energy = [NAN if group == "NO_DFT" else -0.5 for group in GROUPS]
    return make_set([1, 2] * 6 + [1], ("Si", "C"), groups=GROUPS, energy=energy)


def save_hdf5(training_set: TrainingSet, folder: Path) -> Path:
    save_training_set(training_set, folder / "set.h5")
    return folder / "set.h5"


def save_shards(training_set: TrainingSet, folder: Path, count: int = 3, inputs: str = "x") -> Path:
    n = len(training_set)
    for index in range(count):
        save_shard(training_set.select(range(index, n, count)), folder / "set.h5", Shard(index, count, n, inputs))
    return folder / "set.json"


SAVERS = {"hdf5": save_hdf5, "manifest": save_shards}


@pytest.fixture
def sample() -> TrainingSet:
    return make_sample()


@pytest.fixture(params=SAVERS)
def saved(request: pytest.FixtureRequest, sample: TrainingSet, tmp_path: Path) -> Path:
    return SAVERS[request.param](sample, tmp_path)


@pytest.fixture
def hdf5(sample: TrainingSet, tmp_path: Path) -> Path:
    return save_hdf5(sample, tmp_path)


@pytest.fixture
def manifest(sample: TrainingSet, tmp_path: Path) -> Path:
    return save_shards(sample, tmp_path)


@pytest.fixture
def split(sample: TrainingSet) -> Split:
    """Four structures validate, those of c and Å x test."""
    return sample.plan_split(0.6, 7, ["c", "Å*"])


def specified_split_hash(name: str, values: dict[str, Any]) -> str:
    """The recipe of the specification."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(np.array([values["n_structures"], values["seed"]], dtype="<i8").tobytes())
    digest.update(np.array([values["train_fraction"]], dtype="<f8").tobytes())
    digest.update(struct.pack("<q", len(values["test_groups"])))
    for pattern in values["test_groups"]:
        digest.update(pattern.encode() + b"\0")
    for part in ("train", "validation", "test"):
        digest.update(np.array([len(values[part]), *values[part]], dtype="<i8").tobytes())
    return digest.hexdigest()


class TestRoundTrip:
    def test_all_of_it(self, sample: TrainingSet, saved: Path, split: Split) -> None:
        assert (len(split.train), len(split.validation), len(split.test)) == (6, 4, 2)
        assert load_training_set(saved).splits == {}
        save_split(saved, "main", split)
        other = sample.plan_split(0.5, 3)
        save_split(saved, "a.b-2+3_X", other)
        loaded = load_training_set(saved)
        assert_same_set(loaded, sample)
        assert loaded.splits == {"main": split, "a.b-2+3_X": other}

    @pytest.mark.parametrize("fraction", [0.0, 0.9, 1.0])
    def test_groups_without_validation(self, sample: TrainingSet, saved: Path, fraction: float) -> None:
        """They are not stored, and found again."""
        made = sample.plan_split(fraction, 2)
        save_split(saved, "main", made)
        assert load_training_set(saved).splits["main"] == made
        assert bool(made.groups_without_validation) == (fraction < 1.0)

    def test_parts_of_a_set_have_none(self, sample: TrainingSet, saved: Path, split: Split) -> None:
        """Rows are those of the whole set."""
        save_split(saved, "main", split)
        whole = load_training_set(saved)
        assert whole.select(split.train).splits == {}
        assert whole.to("cpu").splits == {"main": split}

    def test_the_same_again_is_no_fault(self, sample: TrainingSet, saved: Path, split: Split) -> None:
        save_split(saved, "main", split)
        before = saved.read_bytes()
        save_split(saved, "main", split)
        assert saved.read_bytes() == before
        with pytest.raises(InputError, match=r"set\.\w+: split 'main': exists already: expected another name"):
            save_split(saved, "main", sample.plan_split(0.6, 8))
        assert saved.read_bytes() == before

    @pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a b", "ä", "a\n", "x" * 101])
    def test_impossible_names(self, sample: TrainingSet, saved: Path, split: Split, name: str) -> None:
        for work in (
            lambda: save_split(saved, name, split),
            lambda: named_split(sample, saved, name),
            lambda: save_training_set(replace(sample, splits={name: split}), saved),
        ):
            with pytest.raises(InputError, match="split: expected a name of at most 100 letters, digits"):
                work()

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"n_structures": 12}, "train: expected rows from 0 to 11, found 12"),
            ({"n_structures": 14}, "made for 14 structures, the set has 13"),
            ({"n_structures": 0}, "n_structures: expected 1 or more"),
            ({"train_fraction": NAN}, "train_fraction: expected a number from 0 to 1"),
            ({"seed": -1}, "seed: expected"),
            ({"train": [4]}, "train: expected structures with an energy, row 4 has none"),
            ({"test_groups": ("a\0",)}, "test_groups: expected text"),
            ({"test_groups": ("\udcff",)}, "test_groups: expected text"),
        ],
    )
    def test_what_is_no_split_of_the_set(self, saved: Path, split: Split, change: dict[str, Any], match: str) -> None:
        before = saved.read_bytes()
        with pytest.raises(InputError, match=rf"set\.\w+: split 'main': {match}"):
            save_split(saved, "main", replace(split, **change))
        assert saved.read_bytes() == before

    def test_text_sets(self, tmp_path: Path) -> None:
        sample, path = make_set(), tmp_path / "set.dat"
        split = sample.plan_split()
        write_text_set(sample, path)
        for work in (
            lambda: save_split(path, "main", split),
            lambda: named_split(sample, path, "main"),
        ):
            with pytest.raises(InputError, match=r"set.dat: a text training set cannot .*save_training_set"):
                work()
        assert load_training_set(path).splits == {}

    def test_info(self, saved: Path, sample: TrainingSet, split: Split) -> None:
        assert "  split " not in info(saved)
        save_split(saved, "main", split)
        save_split(saved, "alone", sample.plan_split(1.0, 2))
        lines = [line for line in info(saved).splitlines() if line.startswith("  split ")]
        assert lines == [
            "  split         alone: 12 train, 0 validate, 0 test, of 13 structures; train fraction 1, seed 2",
            "  split         main: 6 train, 4 validate, 2 test, of 13 structures; train fraction 0.6, seed 7, "
            "test groups c, Å*",
        ]


class TestLayout:
    def test_hdf5(self, hdf5: Path, split: Split) -> None:
        plain = specified_hash(hdf5)
        save_split(hdf5, "main", split)
        with h5py.File(hdf5) as file:
            assert list(file["splits"]) == ["main"]
            group = file["splits/main"]
            assert sorted(group) == ["test", "train", "validation"]
            for part in group:
                assert group[part].dtype.str == "<i8"
                assert group[part][...].tolist() == getattr(split, part)
                properties = group[part].id.get_create_plist()
                assert properties.get_layout() == h5py.h5d.CONTIGUOUS
                assert properties.get_nfilters() == 0
            values = {key: group.attrs[key] for key in group.attrs}
            texts = {key: values[key].decode() for key in ("hash", "test_groups")}
            assert {group.attrs.get_id(key).dtype.kind for key in texts} == {"S"}
            assert {key: values[key].dtype.str for key in sorted(values.keys() - texts)} == {
                "n_structures": "<i8",
                "seed": "<i8",
                "train_fraction": "<f8",
            }
            values |= {part: getattr(split, part) for part in ("train", "validation", "test")}
        assert (values["n_structures"], values["seed"], values["train_fraction"]) == (13, 7, 0.6)
        values["test_groups"] = json.loads(texts["test_groups"])
        assert values["test_groups"] == ["c", "Å*"]
        assert texts["hash"] == specified_split_hash("main", values)
        assert specified_hash(hdf5) == plain  # splits are no part of the content

    def test_manifest(self, manifest: Path, split: Split) -> None:
        before = json.loads(manifest.read_text(encoding="utf-8"))
        save_split(manifest, "main", split)
        content = json.loads(manifest.read_text(encoding="utf-8"))
        entry = content.pop("splits")["main"]
        assert content == before
        assert entry.pop("hash") == specified_split_hash("main", entry)
        assert entry == {
            "n_structures": 13,
            "seed": 7,
            "train_fraction": 0.6,
            "test_groups": ["c", "Å*"],
            "train": split.train,
            "validation": split.validation,
            "test": split.test,
        }

    def test_no_times(self, hdf5: Path, split: Split, tmp_path: Path) -> None:
        shutil.copy(hdf5, tmp_path / "other.h5")
        save_split(hdf5, "main", split)
        time.sleep(1.1)
        save_split(tmp_path / "other.h5", "main", split)
        assert (tmp_path / "other.h5").read_bytes() == hdf5.read_bytes()

    def test_additions_of_others_stay(self, sample: TrainingSet, hdf5: Path, split: Split) -> None:
        with h5py.File(hdf5, "r+") as file:
            file.create_dataset("atoms/charges", data=np.arange(3.0))
            file.attrs["shard"] = np.bytes_(b'{"index": 0}')
        save_split(hdf5, "main", split)
        with h5py.File(hdf5, "r+") as file:
            assert file["atoms/charges"][...].tolist() == [0, 1, 2]
            assert file.attrs["shard"] == b'{"index": 0}'
            file["splits/main"].attrs["comment"] = "mine"
            file["splits/main"].create_dataset("holdout", data=np.zeros(3))
            assert all(file[name].id.get_create_plist().get_nfilters() == 0 for name in LAYOUT)
        assert load_training_set(hdf5).splits["main"] == split
        assert_same_set(load_training_set(hdf5), sample)

    def test_permissions_are_those_of_any_new_file(self, hdf5: Path, split: Split) -> None:
        (hdf5.parent / "plain").touch()
        save_split(hdf5, "main", split)
        assert hdf5.stat().st_mode == (hdf5.parent / "plain").stat().st_mode
        assert {path.name for path in hdf5.parent.iterdir()} == {"plain", "set.h5"}


class TestSetsThatChange:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("structures.poscar.dat", "nn_mode1.nn.dat"):
            shutil.copy(OWN / name, tmp_path)

    def test_append_keeps_and_using_is_refused(self) -> None:
        words = ("structures.poscar.dat", "--potential", "nn_mode1.nn.dat", "--out", "set.h5")
        done("prepare", *words)
        whole = load_training_set("set.h5")
        split = named_split(whole, "set.h5", "main", train_fraction=0.5)
        done("prepare", *words, "--append")
        grown = load_training_set("set.h5")
        assert (len(whole), len(grown)) == (34, 68)
        assert load_training_set("set.h5").splits["main"] == split
        match = r"set.h5: split 'main': made for 34 structures, the set has 68: expected another name"
        with pytest.raises(InputError, match=match):
            named_split(grown, "set.h5", "main")
        second = named_split(grown, "set.h5", "second", train_fraction=0.5)
        assert load_training_set("set.h5").splits == {"main": split, "second": second}
        assert "main: " in info("set.h5")
        done("prepare", *words, "--overwrite")  # another set
        assert load_training_set("set.h5").splits == {}

    def test_convert_keeps(self, sample: TrainingSet, manifest: Path, split: Split) -> None:
        save_split(manifest, "main", split)
        done("convert", "set.json", "joined.h5")
        assert load_training_set("joined.h5").splits["main"] == split
        done("convert", "joined.h5", "again.h5")
        assert load_training_set("again.h5").splits == {"main": split}

    def test_a_shard_again(self, sample: TrainingSet, manifest: Path, split: Split) -> None:
        """A shard of the same inputs keeps the splits, another array of shards is another set."""
        save_split(manifest, "main", split)
        save_shards(sample, manifest.parent)
        assert load_training_set(manifest).splits["main"] == split
        save_shards(sample, manifest.parent, inputs="other")
        assert load_training_set(manifest).splits == {}

    def test_a_shard_has_splits_of_its_own(self, sample: TrainingSet, manifest: Path, split: Split) -> None:
        shard = manifest.parent / "set.0-of-3.h5"
        part = load_training_set(shard)
        own = named_split(part, shard, "main")
        save_split(manifest, "main", split)
        assert load_training_set(shard).splits["main"] == own
        assert load_training_set(manifest).splits == {"main": split}

    def test_changed_since_it_was_read(self, sample: TrainingSet, hdf5: Path) -> None:
        save_training_set(sample.select(range(12)), hdf5)
        with pytest.raises(InputError, match="split 'main': expected the 13 structures that were read, found 12"):
            named_split(sample, hdf5, "main")
        assert load_training_set(hdf5).splits == {}


class TestNamedSplit:
    def test_drawn_once(self, sample: TrainingSet, saved: Path) -> None:
        first = named_split(sample, saved, "main", train_fraction=0.6, seed=7, test_groups=["c", "Å*"])
        assert first == sample.plan_split(0.6, 7, ["c", "Å*"])
        before = saved.read_bytes()
        for given in ({}, {"train_fraction": 0.6}, {"seed": 7}, {"test_groups": ("Å*", "c")}, {"seed": 0}):
            assert named_split(sample, saved, "main", **given) == first
        assert saved.read_bytes() == before

    def test_defaults(self, sample: TrainingSet, saved: Path) -> None:
        assert named_split(sample, saved, "main") == sample.plan_split(0.9, 2)
        assert load_training_set(saved).splits["main"] == sample.plan_split()

    def test_a_random_seed_is_drawn_once(self, sample: TrainingSet, saved: Path) -> None:
        first = named_split(sample, saved, "main", seed=0)
        assert first.seed != 0
        assert named_split(sample, saved, "main", seed=0) == first

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"train_fraction": 0.9}, r"train_fraction: expected 0.6 \(the stored split's\), got 0.9"),
            ({"seed": 2}, "seed: expected 7 .*, got 2"),
            ({"test_groups": ["c"]}, r"test_groups: expected c, Å\* .*, got c: "),
            ({"test_groups": []}, r"test_groups: expected c, Å\* .*, got none"),
        ],
    )
    def test_other_arguments(
        self, sample: TrainingSet, saved: Path, split: Split, given: dict[str, Any], match: str
    ) -> None:
        save_split(saved, "main", split)
        with pytest.raises(InputError, match=rf"set\.\w+: split 'main': {match}"):
            named_split(sample, saved, "main", **given)

    def test_faults_store_nothing(self, sample: TrainingSet, saved: Path) -> None:
        before = saved.read_bytes()
        for given in ({"train_fraction": 2.0}, {"seed": -1}, {"test_groups": ["nobody"]}, {"test_groups": ["*"]}):
            with pytest.raises(InputError):
                named_split(sample, saved, "main", **given)
        assert saved.read_bytes() == before

    def test_no_lock_is_needed_to_use_one(
        self, sample: TrainingSet, saved: Path, split: Split, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Sets in folders that one may only read."""
        save_split(saved, "main", split)

        def refuse(*_: object) -> None:
            raise InputError("no lock")

        monkeypatch.setattr(named_splits, "exclusive", refuse)
        monkeypatch.setattr(named_splits, "locked_manifest", refuse)
        assert named_split(sample, saved, "main") == split
        with pytest.raises(InputError, match="no lock"):
            named_split(sample, saved, "new")


def refuse_all(path: Path, whole: TrainingSet, match: str) -> None:
    """Reading the set, the split and using it: an InputError with file and fault."""
    for work in (
        lambda: load_training_set(path),
        lambda: named_split(whole, path, "main"),
        lambda: named_split(whole, path, "new"),
        lambda: info(path),
    ):
        with pytest.raises(InputError, match=match) as raised:
            work()
        assert str(path) in str(raised.value)


# Changes of the values that are stored; the hash is made to fit.
WRONG: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda v: v["train"].append(13), "train: expected rows from 0 to 12, found 13"),
    (lambda v: v["test"].append(-1), "test: expected rows from 0 to 12, found -1"),
    (lambda v: v["train"].append(v["train"][0]), "train: expected every row once, found row .* twice"),
    (lambda v: v["test"].append(v["train"][0]), "test: expected every row once, found row .* in train, too"),
    (lambda v: v["validation"].append(v["train"][0]), "validation: expected every row once"),
    (lambda v: v["test"].append(4), "test: expected structures with an energy, row 4 has none"),
    (lambda v: v.update(train=[]), "train: expected rows, found none"),
    (lambda v: v.update(n_structures=5), "expected rows from 0 to 4"),
    (lambda v: v.update(n_structures=14), "n_structures: expected at most the 13 of the set, found 14"),
    (lambda v: v.update(n_structures=-3), "n_structures: expected 1 or more, found -3"),
    (lambda v: v.update(seed=2**40), "seed: expected a whole number from 0"),
    (lambda v: v.update(train_fraction=1.5), "train_fraction: expected a number from 0 to 1, found 1.5"),
    (lambda v: v.update(train_fraction=NAN), "train_fraction: expected a number from 0 to 1, found nan"),
    (lambda v: v.update(test_groups=["a\0b"]), "test_groups: expected text without zero bytes"),
]


def values_of(split: Split) -> dict[str, Any]:
    parts = {part: list(getattr(split, part)) for part in ("train", "validation", "test")}
    numbers = {"n_structures": split.n_structures, "seed": split.seed, "train_fraction": split.train_fraction}
    return {**parts, **numbers, "test_groups": list(split.test_groups)}


def rewrite(path: Path, name: str, values: dict[str, Any]) -> None:
    """Store values under a name, right or wrong, with nothing of the package."""
    values = {"hash": specified_split_hash(name, values), **values}
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        content["splits"] = {name: values}
        path.write_text(json.dumps(content))
        return
    with h5py.File(path, "r+") as file:
        group = file.create_group(f"splits/{name}")
        for key, value in values.items():
            if key in ("train", "validation", "test"):
                group[key] = np.array(value, dtype="<i8")
            else:
                group.attrs[key] = json.dumps(value) if key == "test_groups" else value


class TestDamage:
    def test_of_another_writer(self, sample: TrainingSet, saved: Path, split: Split) -> None:
        """Splits that the tests write themselves are read, also with strings of variable length."""
        rewrite(saved, "main", values_of(split))
        assert load_training_set(saved).splits["main"] == split

    @pytest.mark.parametrize(("change", "match"), WRONG)
    def test_impossible_values(
        self, sample: TrainingSet, saved: Path, split: Split, change: Callable[[dict[str, Any]], object], match: str
    ) -> None:
        values = values_of(split)
        change(values)
        rewrite(saved, "main", values)
        with pytest.raises(InputError, match=rf"split 'main': .*{match}"):
            load_training_set(saved)
        if "14" in match:  # also where only the splits are read
            match = "made for 14 structures, the set has 13"
        with pytest.raises(InputError, match=rf"set\.\w+: split 'main': .*{match}"):
            named_split(sample, saved, "main")

    def test_the_hash(self, sample: TrainingSet, saved: Path, split: Split) -> None:
        """Rows that could be: two that changed places."""
        values = values_of(split)
        values["hash"] = specified_split_hash("main", values)
        values["train"][0], values["test"][0] = values["test"][0], values["train"][0]
        rewrite(saved, "main", values)
        refuse_all(saved, sample, "split 'main': damaged: .*hash")

    def test_the_name_is_hashed(self, sample: TrainingSet, saved: Path, split: Split) -> None:
        values = values_of(split)
        rewrite(saved, "mann", {**values, "hash": specified_split_hash("main", values)})
        refuse_all(saved, sample, "split 'mann': damaged: .*hash")

    @pytest.mark.parametrize("key", ["train", "validation", "test", "n_structures", "seed", "train_fraction", "hash"])
    @pytest.mark.parametrize("value", [None, "2", 2.5, True, [1.0], [True], {"0": 1}, [[1]], 1e400])
    def test_other_types_in_json(
        self, sample: TrainingSet, manifest: Path, split: Split, key: str, value: object
    ) -> None:
        save_split(manifest, "main", split)
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["splits"]["main"][key] = value
        manifest.write_text(json.dumps(content))
        refuse_all(manifest, sample, "split 'main': damaged: ")

    @pytest.mark.parametrize("value", [None, [], "x", 3])
    def test_no_object_in_json(self, sample: TrainingSet, manifest: Path, split: Split, value: object) -> None:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        manifest.write_text(json.dumps({**content, "splits": {"main": value}}))
        refuse_all(manifest, sample, "split 'main': damaged: expected an object")
        manifest.write_text(json.dumps({**content, "splits": value}))
        refuse_all(manifest, sample, "damaged: splits: expected an object")

    @pytest.mark.parametrize("part", ["train", "validation", "test"])
    @pytest.mark.parametrize(
        "value",
        [None, "a group", np.arange(3.0), np.arange(3, dtype="<i4"), np.arange(3, dtype=">i8"), np.zeros((3, 1), "i8")],
        ids=str,
    )
    def test_other_datasets(
        self, sample: TrainingSet, hdf5: Path, split: Split, part: str, value: np.ndarray | str | None
    ) -> None:
        save_split(hdf5, "main", split)
        with h5py.File(hdf5, "r+") as file:
            del file[f"splits/main/{part}"]
            if isinstance(value, str):
                file.create_group(f"splits/main/{part}")
            elif value is not None:
                file[f"splits/main/{part}"] = value
        refuse_all(hdf5, sample, f"split 'main': damaged: {part}: expected")

    @pytest.mark.parametrize("key", ["n_structures", "seed", "train_fraction", "test_groups", "hash"])
    @pytest.mark.parametrize("value", [None, "x", 2.5, np.arange(2), h5py.Empty("f8"), b"\xff", "[1]", "{}"], ids=str)
    def test_other_attributes(self, sample: TrainingSet, hdf5: Path, split: Split, key: str, value: object) -> None:
        save_split(hdf5, "main", split)
        with h5py.File(hdf5, "r+") as file:
            del file["splits/main"].attrs[key]
            if value is not None:
                file["splits/main"].attrs[key] = value
        refuse_all(hdf5, sample, "split 'main': damaged: ")

    def test_no_groups(self, sample: TrainingSet, hdf5: Path) -> None:
        with h5py.File(hdf5, "r+") as file:
            file["splits/main"] = np.arange(3)
        refuse_all(hdf5, sample, "split 'main': damaged: expected a group")
        with h5py.File(hdf5, "r+") as file:
            del file["splits"]
            file["splits"] = np.arange(3)
        refuse_all(hdf5, sample, "damaged: splits: expected a group")

    @pytest.mark.slow
    def test_flipped_bits(self, sample: TrainingSet, hdf5: Path, split: Split) -> None:
        """Every bit of rows, and one of every byte that storing the split changed or added in the file."""
        plain = hdf5.read_bytes()
        save_split(hdf5, "main", split)
        raw = hdf5.read_bytes()
        with h5py.File(hdf5) as file:
            stored = {part: file[f"splits/main/{part}"].id for part in ("train", "validation", "test")}
            places = {id.get_offset() + k for id in stored.values() for k in range(id.get_storage_size())}
        flips = [(place, bit) for place in sorted(places) for bit in range(8)]
        added = {k for k in range(len(raw)) if k >= len(plain) or raw[k] != plain[k]} - places
        flips += [(place, place % 8) for place in sorted(added)[::2]]
        assert len(flips) > 96 * 8 + 250
        silent, messages = 0, []
        for place, bit in flips:
            damaged = bytearray(raw)
            damaged[place] ^= 1 << bit
            hdf5.write_bytes(damaged)
            try:
                found = load_training_set(hdf5)
            except InputError as error:
                messages.append(str(error))
            else:
                # HDF5 has bytes that nothing depends on; what is read must then be what was written.
                assert place not in places
                assert found.splits == {"main": split}, place
                silent += 1
        assert all(str(hdf5) in message for message in messages)
        assert silent < len(added) / 4

    def test_flipped_bits_of_a_manifest(self, sample: TrainingSet, manifest: Path, split: Split) -> None:
        """Each character of the splits, one bit at a time: refused, or the same values in other characters."""
        save_split(manifest, "main", split)
        raw = manifest.read_bytes()
        first = raw.index(b'"splits"')
        messages = []
        for place in range(first, len(raw)):
            damaged = bytearray(raw)
            damaged[place] ^= 1 << (place % 7)
            manifest.write_bytes(damaged)
            try:
                found = named_splits._read(manifest, MANIFEST)
            except InputError as error:
                messages.append(str(error))
                continue
            if b'"splits"' in damaged:
                assert found == {"main": replace(split, groups_without_validation=())}, place
        assert all(str(manifest) in message for message in messages)


AT_ONCE = """
from sample_sets import NAN
from formats.training_set.test_named_splits import make_sample, save_hdf5, save_shards
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.named_splits import named_split, save_split
sample = make_sample()
"""


class TestProcessesAtOnce:
    @pytest.mark.parametrize("saver", ["save_hdf5", "save_shards"])
    def test_one_draws_and_all_use_it(self, saver: str, tmp_path: Path) -> None:
        """Each would draw another one: the seed is random. Some ask for a second name at the same time."""
        script = f"""{AT_ONCE}
for attempt in range(5):
    place = folder / str(attempt)
    place.mkdir()
    path = {saver}(sample, place)
    read, write = os.pipe()
    def work(index):
        os.close(write)
        os.read(read, 1)  # returns in all children when the parent closes its end
        for name in ("one", "two")[:: 1 if index % 2 else -1]:
            split = named_split(sample, path, name, train_fraction=0.5, seed=0)
            sys.stdout.write(json.dumps([attempt, name, split.seed, split.train, split.validation]) + "\\n")
    pids = [child(lambda index=index: work(index)) for index in range(4)]
    os.close(read)
    os.close(write)
    for pid in pids:
        os.waitpid(pid, 0)
"""
        rows = [json.loads(line) for line in run_script(script, tmp_path).splitlines()]
        assert len(rows) == 40
        for attempt in range(5):
            path = tmp_path / str(attempt) / ("set.h5" if saver == "save_hdf5" else "set.json")
            splits = load_training_set(path).splits
            assert set(splits) == {"one", "two"}
            for name, split in splits.items():
                found = [row[2:] for row in rows if row[:2] == [attempt, name]]
                assert found == [[split.seed, split.train, split.validation]] * 4
            assert splits["one"].seed != splits["two"].seed
        assert not list(tmp_path.glob("*/.*.partial"))

    @pytest.mark.parametrize("saver", ["save_hdf5", "save_shards"])
    def test_killed(self, saver: str, tmp_path: Path) -> None:
        """kill -9 at every dataset, sync and rename: the set without the split or with it, whole."""
        script = f"""{AT_ONCE}
path = {saver}(sample, folder)
before = path.read_bytes()
for last in range(8):
    path.write_bytes(before)
    def work():
        kill_after(last)
        save_split(path, "main", sample.plan_split(0.5, 3))
    _, status = os.waitpid(child(work), 0)
    split = load_training_set(path).splits.get("main")
    whole = split == sample.plan_split(0.5, 3)
    print(json.dumps([status, split is None, whole, path.read_bytes() == before]), flush=True)
"""
        rows = [json.loads(line) for line in run_script(script, tmp_path).splitlines()]
        before_rename = 5 if saver == "save_hdf5" else 2  # datasets, sync, rename
        assert rows[:before_rename] == [[signal.SIGKILL, True, False, True]] * before_rename
        assert rows[before_rename] == [signal.SIGKILL, False, True, False]  # at the sync of the folder
        assert rows[-1] == [0, False, True, False]

    def test_no_room(self, tmp_path: Path) -> None:
        script = f"""{AT_ONCE}
path = save_hdf5(sample, folder)
size = path.stat().st_size
for limit in (0, 100, size // 2, size):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save_split(path, "main", sample.plan_split())
        except InputError as error:
            print(str(error))
    _, status = os.waitpid(child(work), 0)
    print(status, path.stat().st_size == size, sorted(os.listdir(folder)), flush=True)
"""
        rows = run_script(script, tmp_path).splitlines()
        assert len(rows) == 8
        assert all(row.startswith(f"{tmp_path / 'set.h5'}: cannot write: File too large") for row in rows[::2])
        assert rows[1::2] == ["0 True ['set.h5']"] * 4
