"""Training sets on disk, against docs/formats/training_set.md: bits, layout, damage, killed writers, shards."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from forking import run_script
from sample_sets import NAN, assert_same_set, make_set, save_shard, with_settings

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import json_text
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.nn_dat_header import header_lines
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.formats.training_set.shards import Shard, load_manifest, manifest_path, shard_path
from pyfit_gpu.structures.batch import Structures

# As the specification lists them: (type, shape) with A = 12 atoms, B = 5 structures, F = 18 features.
LAYOUT = {
    "atoms/features": ("<f8", (12, 18)),
    "atoms/species": ("<i4", (12,)),
    "atoms/positions": ("<f8", (12, 3)),
    "atoms/forces": ("<f8", (12, 3)),
    "structures/n_atoms": ("<i8", (5,)),
    "structures/energy": ("<f8", (5,)),
    "structures/volume": ("<f8", (5,)),
    "structures/weight": ("<f8", (5,)),
    "structures/cell": ("<f8", (5, 3, 3)),
    "structures/pbc": ("|u1", (5, 3)),
    "structures/stress": ("<f8", (5, 6)),
    "structures/group": ("<i4", (5,)),
}
HASHED_ATTRIBUTES = ["settings", "energy_shift", "groups", "potential_header"]


def specified_hash(path: Path) -> str:
    """The recipe of the specification, with nothing of the package."""
    digest = hashlib.sha256()
    with h5py.File(path) as file:
        for name in HASHED_ATTRIBUTES:
            digest.update(bytes(file.attrs[name]) + b"\0")
        for name in sorted(LAYOUT):
            shape = file[name].shape
            text = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
            digest.update(f"{name}({text})".encode())
            digest.update(file[name][...].tobytes())
    return digest.hexdigest()


@pytest.fixture
def sample() -> TrainingSet:
    """Two elements, unknown labels, a shift per element, names that need care, numbers that need all digits."""
    made = make_set(
        [2, 1, 3, 4, 2],
        ("Si", "C"),
        groups=["b", "Å x", "a", "b", "NO_DFT"],
        energy=[0.1 + 0.2, -0.0, 5e-324, -1.7976931348623157e308, NAN],
        energy_shift=(0.1, 107.3),
        weight=[1.0, 0.0, 2.5, 1 / 3, 1.0],
    )
    forces = made.forces.clone()
    forces[:3] = NAN
    stress = made.stress.clone()
    stress[1] = NAN
    return replace(made, forces=forces, stress=stress)


@pytest.fixture
def saved(sample: TrainingSet, tmp_path: Path) -> Path:
    path = tmp_path / "set.h5"
    save_training_set(sample, path)
    return path


class TestRoundTrip:
    def test_bit_for_bit(self, sample: TrainingSet, saved: Path) -> None:
        assert_same_set(load_training_set(saved), sample)

    def test_unusual_nan(self, sample: TrainingSet, tmp_path: Path) -> None:
        """Even a NaN keeps its sign and payload."""
        bits = np.array([0x7FF8000000000001, 0xFFF8DEADBEEF0000, 0x7FFFFFFFFFFFFFFF], dtype=np.uint64)
        odd = replace(sample, positions=torch.from_numpy(np.tile(bits.view(np.float64), (12, 1))))
        save_training_set(odd, tmp_path / "nan.h5")
        assert_same_set(load_training_set(tmp_path / "nan.h5"), odd)

    def test_unknown_energy_shift(self, sample: TrainingSet, tmp_path: Path) -> None:
        unknown = replace(sample, energy_shift=None)
        save_training_set(unknown, tmp_path / "set.h5")
        assert_same_set(load_training_set(tmp_path / "set.h5"), unknown)
        with h5py.File(tmp_path / "set.h5") as file:
            assert json.loads(file.attrs["energy_shift"]) is None

    def test_single_precision(self, sample: TrainingSet, tmp_path: Path) -> None:
        """Files hold float64; every float32 has one."""
        single = sample.to("cpu", torch.float32)
        save_training_set(single, tmp_path / "set.h5")
        assert_same_set(load_training_set(tmp_path / "set.h5"), single.to("cpu", torch.float64))
        assert_same_set(load_training_set(tmp_path / "set.h5", dtype=torch.float32), single)

    def test_of_a_file(self, own_data: Path, tmp_path: Path) -> None:
        structures = Structures.from_frames(list(read_dft_text(own_data / "structures.poscar.dat")))
        whole = build_training_set(structures, load_potential(own_data / "nn_mode1.nn.dat"), e_shift=107.0)
        save_training_set(whole, tmp_path / "set.h5")
        assert_same_set(load_training_set(tmp_path / "set.h5"), whole)

    def test_one_atom(self, tmp_path: Path) -> None:
        one = make_set([1])
        save_training_set(one, tmp_path / "set.h5")
        assert_same_set(load_training_set(tmp_path / "set.h5"), one)

    def test_loaded_numbers_can_be_changed(self, saved: Path) -> None:
        """Not read-only memory, which torch would warn about."""
        load_training_set(saved).features.zero_()


class TestLayout:
    def test_datasets(self, saved: Path) -> None:
        with h5py.File(saved) as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            assert sorted(names) == sorted(LAYOUT)
            for name, (dtype, shape) in LAYOUT.items():
                assert file[name].dtype.str == dtype, name
                assert file[name].shape == shape, name

    def test_contiguous_and_uncompressed(self, saved: Path) -> None:
        with h5py.File(saved) as file:
            for name in LAYOUT:
                properties = file[name].id.get_create_plist()
                assert properties.get_layout() == h5py.h5d.CONTIGUOUS, name
                assert properties.get_nfilters() == 0, name
                size = file[name].size * file[name].dtype.itemsize
                assert file[name].id.get_storage_size() == size, name

    def test_values(self, sample: TrainingSet, saved: Path) -> None:
        with h5py.File(saved) as file:
            np.testing.assert_array_equal(file["structures/n_atoms"], [2, 1, 3, 4, 2])
            np.testing.assert_array_equal(file["structures/energy"], sample.energy)  # without the shift
            np.testing.assert_array_equal(file["structures/pbc"], sample.pbc.numpy().astype(np.uint8))
            np.testing.assert_array_equal(file["atoms/species"], sample.species)
            names = json.loads(file.attrs["groups"])
            assert names == ["NO_DFT", "a", "b", "Å x"]
            assert [names[k] for k in file["structures/group"]] == ["b", "Å x", "a", "b", "NO_DFT"]

    def test_attributes(self, sample: TrainingSet, saved: Path) -> None:
        with h5py.File(saved) as file:
            attributes = {
                name: value.decode() if isinstance(value, bytes) else value for name, value in file.attrs.items()
            }
            # Strings of fixed length: those of variable length lie in HDF5's heap, whose damage makes HDF5 hang.
            assert all(file.attrs.get_id(name).dtype.kind == "S" for name in attributes if name != "version")
        assert attributes["format"] == "pyfit-gpu training set"
        assert attributes["version"] == 1
        assert np.issubdtype(attributes["version"].dtype, np.integer)
        assert json.loads(attributes["energy_shift"]) == [0.1, 107.3]
        assert attributes["potential_header"].split("\n") == header_lines(sample.potential)
        assert attributes["created_by"].startswith("pyfit-gpu ")
        assert "shard" not in attributes
        assert json.loads(attributes["settings"]) == {
            "elements": ["Si", "C"],
            "gi_mode": 5,
            "shift": 0.5,
            "cutoff": 4.3,
            "cutoff_width": 1.1,
            "gaussian_width": 0.8,
            "legendre_orders": [0, 2],
            "gaussian_centers": [1.7, 2.5, 3.3],
        }

    def test_hash(self, sample: TrainingSet, saved: Path) -> None:
        with h5py.File(saved) as file:
            stored = file.attrs["content_hash"].decode()
        assert stored == specified_hash(saved)
        assert stored == save_training_set(sample, saved)

    def test_additions_are_ignored(self, sample: TrainingSet, saved: Path) -> None:
        with h5py.File(saved, "r+") as file:
            file.attrs["comment"] = "mine"
            file.create_dataset("atoms/charges", data=np.zeros(12))
            file.create_group("notes")
        assert_same_set(load_training_set(saved), sample)

    def test_other_storage_of_the_same_numbers(self, sample: TrainingSet, saved: Path) -> None:
        """A reader may take chunks and compression, and must not mind attributes that are not hashed."""
        with h5py.File(saved, "r+") as file:
            for name in LAYOUT:
                values = file[name][...]
                del file[name]
                file.create_dataset(name, data=values, compression="gzip")
            file.attrs["created_by"] = "another program"
        assert_same_set(load_training_set(saved), sample)


class TestSameBytes:
    def test_two_saves(self, sample: TrainingSet, saved: Path, tmp_path: Path) -> None:
        first = saved.read_bytes()
        time.sleep(1.1)  # HDF5 notes times in whole seconds, where it notes them
        save_training_set(sample, tmp_path / "again.h5")
        assert (tmp_path / "again.h5").read_bytes() == first
        save_training_set(load_training_set(saved), saved)
        assert saved.read_bytes() == first

    def test_permissions_are_those_of_any_new_file(self, saved: Path) -> None:
        (saved.parent / "plain").touch()
        assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode


def refuse(path: Path, match: str | None = None) -> None:
    """An InputError that names the file."""
    with pytest.raises(InputError, match=match) as raised:
        load_training_set(path)
    assert str(path) in str(raised.value)


class TestDamage:
    @pytest.mark.parametrize("name", LAYOUT)
    def test_a_flipped_bit_in_a_dataset(self, saved: Path, name: str) -> None:
        with h5py.File(saved) as file:
            offset, size = file[name].id.get_offset(), file[name].id.get_storage_size()
        raw = saved.read_bytes()
        for place in (0, size // 2, size - 1):
            damaged = bytearray(raw)
            damaged[offset + place] ^= 1
            saved.write_bytes(damaged)
            refuse(saved, "damaged")

    @pytest.mark.parametrize("name", HASHED_ATTRIBUTES)
    def test_a_flipped_bit_in_an_attribute(self, saved: Path, name: str) -> None:
        raw = saved.read_bytes()
        with h5py.File(saved) as file:
            text = bytes(file.attrs[name])
        assert raw.count(text) == 1
        for place in (0, len(text) // 2, len(text) - 1):
            damaged = bytearray(raw)
            damaged[raw.index(text) + place] ^= 1
            saved.write_bytes(damaged)
            refuse(saved, "damaged")

    @pytest.mark.parametrize("name", ["format", "version", *HASHED_ATTRIBUTES, "content_hash"])
    def test_missing_attribute(self, saved: Path, name: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file.attrs[name]
        refuse(saved)

    @pytest.mark.parametrize("name", LAYOUT)
    def test_missing_dataset(self, saved: Path, name: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file[name]
        refuse(saved, name)

    @pytest.mark.parametrize("value", ["a group", "words", "records", "a number"])
    def test_something_else_in_place_of_a_dataset(self, saved: Path, value: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file["structures/energy"]
            if value == "a group":
                file.create_group("structures/energy")
            else:
                made = {
                    "words": np.array(["a", "b"], dtype=h5py.string_dtype()),
                    "records": np.zeros(5, dtype=[("x", "<f8"), ("y", "<f8")]),
                    "a number": np.float64(1.0),
                }
                file.create_dataset("structures/energy", data=made[value])
        refuse(saved)

    @pytest.mark.parametrize("name", ["format", "version", *HASHED_ATTRIBUTES, "content_hash"])
    @pytest.mark.parametrize("value", [np.array([1.0, 2.0]), 17, h5py.Empty("f8")], ids=["numbers", "number", "empty"])
    def test_something_else_in_place_of_an_attribute(self, saved: Path, name: str, value: object) -> None:
        with h5py.File(saved, "r+") as file:
            file.attrs[name] = value
        refuse(saved)

    def test_a_dataset_of_another_shape(self, saved: Path) -> None:
        """The same bytes, another shape."""
        with h5py.File(saved, "r+") as file:
            values = file["structures/stress"][...].reshape(6, 5)
            del file["structures/stress"]
            file.create_dataset("structures/stress", data=values)
        refuse(saved, "damaged")

    def test_truncated(self, saved: Path) -> None:
        raw = saved.read_bytes()
        for length in (1, 7, 8, 40, 96, 500, *(len(raw) * k // 12 for k in range(1, 12)), len(raw) - 1):
            saved.write_bytes(raw[:length])
            refuse(saved)

    def test_not_a_set(self, tmp_path: Path) -> None:
        path = tmp_path / "set.h5"
        with h5py.File(path, "w") as file:
            file["data"] = [1, 2, 3]
        refuse(path, "expected format 'pyfit-gpu training set'")
        path.write_bytes(b"")
        refuse(path, "the file is empty")
        path.write_text("a text\n")
        refuse(path, "expected a training set")
        path.write_bytes(bytes(range(256)) * 10)
        refuse(path, "expected a training set")
        refuse(tmp_path / "nowhere.h5", "No such file")
        refuse(tmp_path, "directory")

    @pytest.mark.parametrize("version", [0, 2])
    def test_other_version(self, saved: Path, version: int) -> None:
        with h5py.File(saved, "r+") as file:
            file.attrs["version"] = version
            file.attrs["created_by"] = "pyfit-gpu 99.0"
        refuse(saved, rf"expected format version 1, found {version} \(written by pyfit-gpu 99.0\)")


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a set, and give it the hash of its new content: only its own rules can refuse it."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    content_hash = specified_hash(path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs["content_hash"] = np.bytes_(content_hash.encode())


def put(dataset: str, place: object, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[dataset][place] = value

    return change


def say(attribute: str, text: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.attrs[attribute] = np.bytes_(text.encode("utf-8", "surrogatepass"))

    return change


def settings(**changed: object) -> Callable[[h5py.File], None]:
    """Change settings; None takes one out."""

    def change(file: h5py.File) -> None:
        content = {**json.loads(file.attrs["settings"]), **changed}
        say("settings", json.dumps({key: value for key, value in content.items() if value is not None}))(file)

    return change


NEVER_NEGATIVE = ["structures/weight", "structures/volume"]
NEVER_INFINITE = ["atoms/features", "atoms/positions", "atoms/forces", "structures/energy", "structures/cell",
                  "structures/stress", *NEVER_NEGATIVE]  # fmt: skip
CONTRADICTIONS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    **{f"infinite {name}": (put(name, 0, np.inf), name) for name in NEVER_INFINITE},
    **{f"NaN {name}": (put(name, 0, NAN), name) for name in ("atoms/features", *NEVER_NEGATIVE)},
    **{f"negative {name}": (put(name, 0, -1e-9), name) for name in NEVER_NEGATIVE},
    "the last feature": (put("atoms/features", (-1, -1), NAN), "atoms/features"),
    "a part of the positions": (put("atoms/positions", (0, 1), NAN), "atoms/positions: .* or none"),
    "forces of one atom": (put("atoms/forces", 4, NAN), "atoms/forces: .* or none"),
    "a part of the cell": (put("structures/cell", (0, 1, 1), NAN), "structures/cell: .* or none"),
    "a part of the stress": (put("structures/stress", (0, 1), NAN), "structures/stress: .* or none"),
    "no atoms": (put("structures/n_atoms", slice(0, 2), [0, 3]), "n_atoms: expected numbers of 1 or more"),
    "negative n_atoms": (put("structures/n_atoms", slice(0, 2), [-3, 6]), "n_atoms: expected numbers of 1 or more"),
    "n_atoms beyond all": (put("structures/n_atoms", slice(0, 2), [2**62, 2**62]), "n_atoms: expected"),
    "another sum": (put("structures/n_atoms", 0, 3), "n_atoms: expected numbers of 1 or more that add up to 12"),
    "species": (put("atoms/species", 0, 2), "atoms/species: expected numbers from 0 to 1"),
    "group": (put("structures/group", 0, -1), "structures/group: expected numbers from 0 to 3"),
    "pbc": (put("structures/pbc", 0, 7), "structures/pbc: expected numbers from 0 to 1"),
    "shift NaN": (say("energy_shift", "[NaN, 1]"), "energy_shift: .*NaN"),
    "shift too large": (say("energy_shift", "[1e999, 1]"), "energy_shift: .*finite"),
    "shift a text": (say("energy_shift", '["1", "2"]'), "energy_shift: expected a list of numbers"),
    "shift a flag": (say("energy_shift", "[true, 1]"), "energy_shift: expected a list of numbers"),
    "too few shifts": (say("energy_shift", "[1]"), "energy_shift: expected 2"),
    "shift no JSON": (say("energy_shift", "[1,"), "energy_shift: no valid JSON"),
    "deep JSON": (say("groups", "[" * 20_000 + "]" * 20_000), "groups: .*nested too deeply"),
    "groups numbers": (say("groups", "[1, 2, 3, 4]"), "groups: expected a list of texts"),
    "groups an object": (say("groups", '{"a": 1}'), "groups: expected a list of texts"),
    "groups unsorted": (say("groups", '["b", "a", "c", "d"]'), "groups: .* in the order"),
    "groups twice": (say("groups", '["a", "a", "c", "d"]'), "groups: .* all differ"),
    "half a character": (say("groups", r'["a", "b", "c", "\ud800x"]'), "groups: .*UTF-8"),
    "header": (say("potential_header", "x"), "potential_header"),
    "header of another": (
        say("potential_header", "\n".join(header_lines(make_set().potential))),
        "contradicts settings",
    ),
    "settings a list": (say("settings", "[]"), "settings: expected an object"),
    "a setting less": (settings(cutoff=None), "settings: expected an object with the keys"),
    "a setting more": (settings(colour=1), "settings: expected an object with the keys"),
    "a text as a number": (settings(cutoff="4"), "settings: cutoff: expected a number"),
    "a number as a list": (settings(legendre_orders=2), "settings: legendre_orders: expected a list"),
    "a list in a list": (settings(gaussian_centers=[[1.0]]), "settings: gaussian_centers: expected a list of numbers"),
    "a flag as a mode": (settings(gi_mode=True), "settings: gi_mode: expected a whole number"),
    "an unknown element": (settings(elements=["Si", "Xx"]), "settings: "),
    "other orders": (settings(legendre_orders=[0]), "atoms/features|contradicts settings"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_sets_that_contradict_themselves(saved: Path, name: str, lazy: bool) -> None:
    change, match = CONTRADICTIONS[name]
    edit(saved, change)
    with pytest.raises(InputError, match=match) as raised:
        load_training_set(saved, lazy=lazy)
    assert str(saved) in str(raised.value)
    assert len(str(raised.value)) < 500


def test_an_edited_set_with_the_right_hash(sample: TrainingSet, saved: Path) -> None:
    """The edits alone make no difference to a reader."""
    edit(saved, put("structures/weight", 0, 0.0))
    assert load_training_set(saved).weight[0] == 0.0
    edit(saved, say("groups", '["NO_DFT", "a", "b", "c"]'))
    assert load_training_set(saved).groups == ("b", "c", "a", "b", "NO_DFT")


def test_a_small_file_that_declares_much(saved: Path) -> None:
    with h5py.File(saved, "r+") as file:
        del file["atoms/features"]
        file.create_dataset("atoms/features", shape=(10**8, 18), dtype="<f8", chunks=(1000, 18))
    refuse(saved, "atoms/features: .* does not fit a file of")


class TestKilledAndFull:
    def test_no_room(self, tmp_path: Path) -> None:
        """Whatever the limit on the file's size, there is a message, the old set stays and nothing else is left."""
        path = tmp_path / "set.h5"
        save_training_set(make_set(seed=1), path)
        before = path.read_bytes()
        script = """
big = make_set([10] * 200, seed=2)
save_training_set(big, folder / "whole.h5")
size = (folder / "whole.h5").stat().st_size
(folder / "whole.h5").unlink()
for limit in (0, 1, 100, 5000, size // 3, size // 2, size - 100, size - 1):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save_training_set(big, folder / "set.h5")
        except InputError as error:
            print(json.dumps(["message", limit, str(error)]))
    _, status = os.waitpid(child(work), 0)
    print(json.dumps(["end", limit, status, sorted(os.listdir(folder))]), flush=True)
"""
        messages, ends = {}, {}
        for kind, limit, *rest in map(json.loads, run_script(script, tmp_path).splitlines()):
            (messages if kind == "message" else ends)[limit] = rest
        assert ends == {limit: [0, ["set.h5"]] for limit in ends}
        assert len(messages) == len(ends) == 8
        for (message,) in messages.values():
            assert message.startswith(f"{path}: cannot write: ")
            assert "File too large" in message
        assert path.read_bytes() == before

    def test_killed(self, tmp_path: Path) -> None:
        """kill -9 at every dataset, sync and rename: the old set or the new one, whole, or none if there was none."""
        script = """
for target in (folder / "set.h5", folder / "fresh.h5"):
    for last in range(18):
        if target.name == "set.h5":
            save_training_set(make_set(seed=1), target)
        else:
            target.unlink(missing_ok=True)
        def work():
            kill_after(last)
            save_training_set(make_set(seed=2), target)
        _, status = os.waitpid(child(work), 0)
        print(target.stem, last, status, flush=True)
        if target.exists():
            os.link(target, folder / f"{target.stem}.{last}.left")
"""
        rows = [line.split() for line in run_script(script, tmp_path).splitlines()]
        old, new = make_set(seed=1), make_set(seed=2)
        found: dict[str, list[str]] = {"set": [], "fresh": []}
        for stem, last, status in rows:
            left = tmp_path / f"{stem}.{last}.left"
            if not left.exists():
                found[stem].append("none")
            else:
                energy = load_training_set(left).energy
                found[stem].append("old" if torch.equal(energy, old.energy) else "new")
                assert_same_set(load_training_set(left), old if found[stem][-1] == "old" else new)
            if int(status) == 0:
                assert found[stem][-1] == "new"
        for stem, before in (("set", "old"), ("fresh", "none")):
            # 12 datasets, the sync and the rename itself come before the new file has its name.
            assert found[stem][:14] == [before] * 14
            assert set(found[stem][14:]) == {"new"}
        assert [int(status) for _, _, status in rows].count(signal.SIGKILL) >= 28

    def test_missing_folder(self, sample: TrainingSet, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere/set.h5: cannot write: the folder .* does not exist"):
            save_training_set(sample, tmp_path / "nowhere" / "set.h5")

    def test_a_folder_in_the_way(self, sample: TrainingSet, tmp_path: Path) -> None:
        (tmp_path / "set.h5").mkdir()
        with pytest.raises(InputError, match=r"set.h5: cannot write: it is not a plain file"):
            save_training_set(sample, tmp_path / "set.h5")


MakeShard = Callable[[int, int], tuple[Path, list[int]]]


@pytest.fixture(scope="module")
def structures(own_data: Path) -> Structures:
    """A dozen of the sizes 1 to 8, not in order of size, one without an energy."""
    frames = list(read_dft_text(own_data / "structures.poscar.dat"))
    frames = [frames[k] for k in (26, 0, 12, 3, 33, 6, 15, 24, 9, 29, 1, 18)]
    frames[4] = replace(frames[4], energy=None, group="NO_DFT_one")
    return Structures.from_frames(frames)


@pytest.fixture(scope="module")
def whole(structures: Structures, own_data: Path) -> TrainingSet:
    return build_training_set(structures, load_potential(own_data / "nn_mode1.nn.dat"), e_shift=107.0)


@pytest.fixture(scope="module")
def computed(structures: Structures, own_data: Path) -> dict[tuple[int, int], TrainingSet]:
    """Every shard of 1, 2, 3 and 5, each computed from its own structures alone."""
    potential = load_potential(own_data / "nn_mode1.nn.dat")
    return {
        (index, count): build_training_set(structures.select(range(index, 12, count)), potential, e_shift=107.0)
        for count in (1, 2, 3, 5)
        for index in range(count)
    }


class TestShards:
    @pytest.fixture
    def make_shard(self, computed: dict[tuple[int, int], TrainingSet], tmp_path: Path) -> MakeShard:
        def make(index: int, count: int) -> tuple[Path, list[int]]:
            return save_shard(computed[index, count], tmp_path / "set.h5", Shard(index, count, 12, "inputs"))

        return make

    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_any_number_in_any_order(
        self, whole: TrainingSet, make_shard: MakeShard, count: int, tmp_path: Path
    ) -> None:
        expected = save_training_set(whole, tmp_path / "whole.h5")
        orders = list(itertools.permutations(range(count)))
        for order in orders[:: max(1, len(orders) // 6)]:
            for file in (*tmp_path.glob("set.*"), *tmp_path.glob(".set.*")):
                file.unlink()
            for position, index in enumerate(order):
                path, missing = make_shard(index, count)
                assert path == tmp_path / f"set.{index}-of-{count}.h5"
                assert missing == sorted(order[position + 1 :])
            joined = load_training_set(tmp_path / "set.json")
            assert_same_set(joined, whole)
            assert save_training_set(joined, tmp_path / "joined.h5") == expected
            assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()

    def test_each_missing_shard_is_named(self, make_shard: MakeShard, tmp_path: Path) -> None:
        for index in (2, 0):
            make_shard(index, 3)
        with pytest.raises(InputError, match=r"set.json: shard 1 of 3 is missing \(set.1-of-3.h5\)"):
            load_training_set(tmp_path / "set.json")
        make_shard(1, 3)
        (tmp_path / "set.2-of-3.h5").unlink()
        with pytest.raises(InputError, match=r"set.json: shard 2 of 3 is missing: .*set.2-of-3.h5 does not exist"):
            load_training_set(tmp_path / "set.json")

    def test_other_ending(self, computed: dict[tuple[int, int], TrainingSet], tmp_path: Path) -> None:
        """Shards keep the ending of the set, also in the message about one that has not come."""
        path, _ = save_shard(computed[0, 2], tmp_path / "si.v2.hdf5", Shard(0, 2, 12, "inputs"))
        assert path == tmp_path / "si.v2.0-of-2.hdf5"
        assert path.exists()
        with pytest.raises(InputError, match=r"si.v2.json: shard 1 of 2 is missing \(si.v2.1-of-2.hdf5\)"):
            load_training_set(tmp_path / "si.v2.json")

    def test_names(self) -> None:
        assert shard_path("out/set.h5", 3, 12) == Path("out/set.3-of-12.h5")
        assert shard_path("a.b.hdf5", 0, 1) == Path("a.b.0-of-1.hdf5")
        assert manifest_path("out/a.b.h5") == Path("out/a.b.json")

    def test_a_shard_is_a_set(self, computed: dict[tuple[int, int], TrainingSet], make_shard: MakeShard) -> None:
        path, _ = make_shard(1, 2)
        assert_same_set(load_training_set(path), computed[1, 2])
        with h5py.File(path) as file:
            described = json.loads(file.attrs["shard"])
        assert described == {"index": 1, "count": 2, "n_structures": 12, "inputs": "inputs"}

    def test_the_manifest(self, make_shard: MakeShard, tmp_path: Path) -> None:
        make_shard(1, 2)
        make_shard(0, 2)
        manifest = json.loads((tmp_path / "set.json").read_text(encoding="utf-8"))
        entries = manifest.pop("shards")
        assert manifest == {
            "format": "pyfit-gpu training set manifest",
            "version": 1,
            "count": 2,
            "n_structures": 12,
            "inputs": "inputs",
        }
        assert set(entries) == {"0", "1"}
        for index in (0, 1):
            file = f"set.{index}-of-2.h5"
            assert entries[str(index)] == {
                "file": file,
                "content_hash": specified_hash(tmp_path / file),
                "n_structures": 6,
            }

    def test_the_folder_may_move(self, make_shard: MakeShard, tmp_path: Path) -> None:
        for index in range(3):
            make_shard(index, 3)
        whole = load_training_set(tmp_path / "set.json")
        (tmp_path / "moved").mkdir()
        for path in tmp_path.glob("set.*"):
            path.rename(tmp_path / "moved" / path.name)
        assert_same_set(load_training_set(tmp_path / "moved" / "set.json"), whole)

    def test_a_shard_again(self, whole: TrainingSet, make_shard: MakeShard, tmp_path: Path) -> None:
        for index in (0, 1, 1, 0):
            _, missing = make_shard(index, 2)
        assert missing == []
        assert_same_set(load_training_set(tmp_path / "set.json"), whole)

    def test_a_shard_of_other_content(self, whole: TrainingSet, make_shard: MakeShard, tmp_path: Path) -> None:
        for index in range(2):
            path, _ = make_shard(index, 2)
        other = whole.select(range(1, 12, 2))
        save_training_set(replace(other, energy=other.energy + 1), path)
        with pytest.raises(InputError, match=r"set.json: shard 1: .*set.1-of-2.h5 is not the file"):
            load_training_set(tmp_path / "set.json")

    def test_a_damaged_shard(self, make_shard: MakeShard, tmp_path: Path) -> None:
        for index in range(2):
            path, _ = make_shard(index, 2)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"set.1-of-2.h5"):
            load_training_set(tmp_path / "set.json")

    def test_shards_that_do_not_belong_together(self, whole: TrainingSet, tmp_path: Path) -> None:
        """Settings are compared although the manifest says that the inputs are the same."""
        parts = [whole.select(range(k, 12, 2)) for k in range(2)]
        save_shard(parts[0], tmp_path / "set.h5", Shard(0, 2, 12, "inputs"))
        save_shard(replace(parts[1], energy_shift=(1.0,)), tmp_path / "set.h5", Shard(1, 2, 12, "inputs"))
        with pytest.raises(InputError, match="e_shift"):
            load_training_set(tmp_path / "set.json")
        other = with_settings(parts[1], cutoff=4.4)
        save_shard(other, tmp_path / "set.h5", Shard(1, 2, 12, "inputs"))
        with pytest.raises(InputError, match="cutoff"):
            load_training_set(tmp_path / "set.json")

    def test_too_few_structures(self, whole: TrainingSet, tmp_path: Path) -> None:
        for index in range(2):
            save_shard(whole.select(range(index, 8, 2)), tmp_path / "set.h5", Shard(index, 2, 12, "inputs"))
        with pytest.raises(InputError, match=r"set.json: expected 12 structures, the shards hold 8"):
            load_training_set(tmp_path / "set.json")

    @pytest.mark.parametrize(("count", "inputs"), [(2, "other inputs"), (3, "inputs"), (5, "other inputs")])
    def test_another_job_array_replaces_the_manifest(
        self,
        computed: dict[tuple[int, int], TrainingSet],
        make_shard: MakeShard,
        count: int,
        inputs: str,
        tmp_path: Path,
    ) -> None:
        for index in range(2):
            make_shard(index, 2)
        shard = Shard(1, count, 12, inputs)
        _, missing = save_shard(computed[1, count], tmp_path / "set.h5", shard)
        assert missing == [index for index in range(count) if index != 1]
        manifest = json.loads((tmp_path / "set.json").read_text())
        assert (manifest["count"], manifest["inputs"], list(manifest["shards"])) == (count, inputs, ["1"])
        with pytest.raises(InputError, match=rf"shard 0 of {count} is missing"):
            load_training_set(tmp_path / "set.json")

    @pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0), (3, 2)])
    def test_impossible_shards(self, index: int, count: int) -> None:
        with pytest.raises(InputError, match=rf"expected I/N with 0 <= I < N, got {index}/{count}"):
            Shard(index, count, 12, "inputs")


class TestManifestFaults:
    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Path:
        whole = make_set()
        for index in range(2):
            save_shard(whole.select(range(index, 5, 2)), tmp_path / "set.h5", Shard(index, 2, 5, "inputs"))
        return tmp_path / "set.json"

    def test_not_json(self, manifest: Path) -> None:
        text = manifest.read_text()
        for content in (text[:-3], "{", "{]", text.replace(":", "=")):
            manifest.write_text(content)
            refuse(manifest, "expected a training set manifest")
        manifest.write_bytes(b"{\xff\xfe}")
        refuse(manifest, "expected a training set manifest")

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "../set.0-of-2.h5", "/etc/passwd", "a" * 300, "a\0", "\ud800", 1, None, ["a"]]
    )
    def test_files_are_those_of_the_folder(self, manifest: Path, name: object) -> None:
        content = json.loads(manifest.read_text())
        content["shards"]["0"]["file"] = name
        manifest.write_text(json.dumps(content))
        refuse(manifest, "damaged: shard 0: expected (the name of a file in the manifest's folder|an object with a)")

    @pytest.mark.parametrize("changed", [{"count": 0}, {"count": -1}, {"count": True}, {"count": 2.0}, {"count": "2"},
                                         {"n_structures": -(10**30)}, {"n_structures": 1}, {"n_structures": True},
                                         {"inputs": 1}, {"shards": []}, {"shards": {"0": 1}}])  # fmt: skip
    def test_impossible_values(self, manifest: Path, changed: dict[str, object]) -> None:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changed))
        refuse(manifest, f"damaged: ({next(iter(changed))}|shard 0): expected")

    def test_deep_json(self, manifest: Path) -> None:
        text = manifest.read_text()
        for depth in (900, 200_000):  # the parser alone takes the first
            manifest.write_text(text.replace('"inputs": "inputs"', f'"inputs": {"[" * depth}{"]" * depth}'))
            with pytest.raises(InputError, match=r"nested too deeply|inputs: expected a text") as raised:
                load_manifest(manifest)
            assert len(str(raised.value)) < 500

    def test_too_large(self, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_text, "MAX_BYTES", 100)
        refuse(manifest, "set.json: expected a training set manifest, found [0-9]+ bytes")

    def test_a_pipe_as_a_shard(self, manifest: Path) -> None:
        (manifest.parent / "set.1-of-2.h5").unlink()
        os.mkfifo(manifest.parent / "set.1-of-2.h5")
        with pytest.raises(InputError, match=r"set\.1-of-2\.h5: .*expected a file, found a pipe"):
            load_training_set(manifest)

    def test_other_json(self, manifest: Path) -> None:
        for content in ({}, {"run_training": True}, {"format": "another"}):
            manifest.write_text(json.dumps(content))
            refuse(manifest, "expected a training set manifest")
        manifest.write_text("[1]")
        with pytest.raises(InputError, match=r"set.json: expected a training set manifest"):
            load_manifest(manifest)

    @pytest.mark.parametrize("version", [0, 2, None, "1"])
    def test_other_version(self, manifest: Path, version: object) -> None:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": version}))
        refuse(manifest, rf"expected manifest version 1, found {version}")

    @pytest.mark.parametrize("key", ["count", "n_structures", "inputs", "shards"])
    def test_missing_key(self, manifest: Path, key: str) -> None:
        content = json.loads(manifest.read_text())
        del content[key]
        manifest.write_text(json.dumps(content))
        refuse(manifest, rf"damaged: .*{key}")

    @pytest.mark.parametrize("key", ["file", "content_hash"])
    def test_missing_key_of_a_shard(self, manifest: Path, key: str) -> None:
        content = json.loads(manifest.read_text())
        del content["shards"]["1"][key]
        manifest.write_text(json.dumps(content))
        refuse(manifest, "shard 1")

    @pytest.mark.parametrize(("key", "value"), [("count", "2"), ("count", 2.5), ("shards", []), ("shards", {"0": 1})])
    def test_wrong_types(self, manifest: Path, key: str, value: object) -> None:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {key: value}))
        refuse(manifest)

    def test_unknown_keys_are_ignored(self, manifest: Path) -> None:
        content = json.loads(manifest.read_text()) | {"comment": "mine"}
        content["shards"]["0"]["host"] = "node7"
        manifest.write_text(json.dumps(content, separators=(",", ":")))
        assert_same_set(load_training_set(manifest), make_set())


def test_shards_that_finish_at_once(tmp_path: Path) -> None:
    """Six processes write the manifest at the same moment, many times: no entry is lost, one finds nothing missing."""
    script = """
whole = make_set([2, 1, 3, 4, 2, 1, 2], seed=4)
for attempt in range(12):
    target = folder / f"set{attempt}.h5"
    read, write = os.pipe()
    def work(index):
        os.close(write)
        os.read(read, 1)  # returns in all children when the parent closes its end
        _, missing = save_shard(whole.select(range(index, 7, 6)), target, Shard(index, 6, 7, "inputs"))
        sys.stdout.write(f"{attempt} {index} {len(missing)}\\n")
    pids = [child(lambda index=index: work(index)) for index in range(6)]
    os.close(read)
    os.close(write)
    for pid in pids:
        os.waitpid(pid, 0)
"""
    rows = [list(map(int, line.split())) for line in run_script(script, tmp_path).splitlines()]
    assert len(rows) == 72
    whole = make_set([2, 1, 3, 4, 2, 1, 2], seed=4)
    for attempt in range(12):
        missing = sorted(row[2] for row in rows if row[0] == attempt)
        assert missing == [0, 1, 2, 3, 4, 5]
        assert sorted(json.loads((tmp_path / f"set{attempt}.json").read_text())["shards"]) == list("012345")
        assert_same_set(load_training_set(tmp_path / f"set{attempt}.json"), whole)
    assert not list(tmp_path.glob(".*.partial"))


class TestLazy:
    """The features stay in the file; everything else is as if they did not."""

    def load(self, path: Path) -> tuple[TrainingSet, TrainingSet]:
        lazy, whole = load_training_set(path, lazy=True), load_training_set(path)
        assert isinstance(lazy.features, FeatureRows)
        return lazy, whole

    def read(self, training_set: TrainingSet) -> TrainingSet:
        return replace(training_set, features=read_features(training_set.features))

    @pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
    def test_the_same_set(self, tmp_path: Path, elements: tuple[str, ...]) -> None:
        save_training_set(make_set([3, 1, 5, 2, 4], elements), tmp_path / "set.h5")
        lazy, whole = self.load(tmp_path / "set.h5")
        assert_same_set(self.read(lazy), whole)
        assert_same_set(self.read(lazy.select([4, 1, 1])), whole.select([4, 1, 1]))
        single = lazy.to("cpu", torch.float32)
        assert isinstance(single.select([2]).features, FeatureRows)
        assert_same_set(self.read(single), whole.to("cpu", torch.float32))

    def test_writing_it_again(self, tmp_path: Path) -> None:
        """Also over its own file: what is read is the file that was opened."""
        content_hash = save_training_set(make_set(), tmp_path / "set.h5")
        lazy, whole = self.load(tmp_path / "set.h5")
        assert save_training_set(lazy, tmp_path / "set.h5") == content_hash
        assert_same_set(self.read(lazy), whole)
        write_text_set(lazy, tmp_path / "lazy.dat")
        write_text_set(whole, tmp_path / "whole.dat")
        assert (tmp_path / "lazy.dat").read_bytes() == (tmp_path / "whole.dat").read_bytes()

    def test_shards_in_file_order(self, tmp_path: Path) -> None:
        whole = make_set([3, 1, 5, 2, 4, 1, 1])
        for index in range(3):
            part = whole.select(list(range(index, len(whole), 3)))
            save_shard(part, tmp_path / "set.h5", Shard(index, 3, len(whole), "inputs"))
        lazy, expected = self.load(tmp_path / "set.json")
        assert_same_set(self.read(lazy), expected)
        assert_same_set(expected, whole)

    def test_a_text_set_is_read_in_full(self, tmp_path: Path) -> None:
        write_text_set(make_set(), tmp_path / "set.dat")
        assert isinstance(load_training_set(tmp_path / "set.dat", lazy=True).features, torch.Tensor)

    def test_another_layout_is_read_in_full(self, tmp_path: Path) -> None:
        save_training_set(make_set(), tmp_path / "set.h5")
        with h5py.File(tmp_path / "set.h5", "a") as file:
            values = file["atoms/features"][...]
            del file["atoms/features"]
            file.create_dataset("atoms/features", data=values, chunks=(2, values.shape[1]), compression="gzip")
        found = load_training_set(tmp_path / "set.h5", lazy=True)
        assert isinstance(found.features, torch.Tensor)
        assert_same_set(found, make_set())

    def test_every_damage_is_found(self, tmp_path: Path) -> None:
        training_set = make_set()
        save_training_set(training_set, tmp_path / "set.h5")
        content = bytearray((tmp_path / "set.h5").read_bytes())
        place = content.index(training_set.features.numpy().tobytes())
        for byte in (place, place + training_set.features.nbytes - 1):
            damaged = bytearray(content)
            damaged[byte] ^= 1
            (tmp_path / "damaged.h5").write_bytes(damaged)
            with pytest.raises(InputError, match="damaged: its content does not have the hash"):
                load_training_set(tmp_path / "damaged.h5", lazy=True)
        for length in (place + 40, len(content) - 1):
            (tmp_path / "short.h5").write_bytes(content[:length])
            with pytest.raises(InputError, match="may be damaged"):
                load_training_set(tmp_path / "short.h5", lazy=True)
