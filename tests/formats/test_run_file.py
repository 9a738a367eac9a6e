"""Run files against docs/formats/run_file.md: bits, layout, damage, killed writers, a full disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
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
from sample_sets import make_potential, make_set, make_settings

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import Run, is_run_file, load_run, load_run_members, save_run
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.fit import FitState, fit
from pyfit_gpu.training.history import LabelErrors, MemberHistory

NAN, INF = float("nan"), float("inf")
TEXTS = ["content_hash", "created_by", "data", "done", "first_member", "format", "logs", "members",
         "potential_header", "settings"]  # fmt: skip
WEIGHTS = ["good", "kept", "potential"]
INPUTS = ["mean", "scale"]


def make_run(seed: int = 3, *, members: int = 2, steps: int = 3) -> Run:
    """A fit of real steps; the settings and names are made up, some of them with letters that need care."""
    potential = make_potential(("Si", "C"), seed=seed).random_members(range(members), seed)
    states: list[FitState] = []
    settings = make_settings(steps=steps, history_size=5)
    train, validation = make_set(elements=("Si", "C")), make_set(elements=("Si", "C"), seed=7)
    fit(potential, train, validation, settings=settings, checkpoint=lambda state, last: states.append(state()))
    return Run(
        potential=potential,
        state=states[-1],
        settings={"steps": steps, "learning_rate": None, "group_targets": {"Å x": 0.1 + 0.2}, "seed": seed},
        data={"descriptor": {"elements": ["Si", "C"], "cutoff": 1 / 3}, "split": "00ff"},
        logs={"out/Å loss.txt": (2, 123), "b.txt": (0, 0)},
        first_member=4,
        done=False,
    )


def bits(run: Run) -> dict[str, object]:
    """Everything, numbers by their bits."""
    tensors = {f"optimizer {name}": value for name, value in run.state.optimizer.items()}
    tensors |= {"good": run.state.last_finite, "kept": run.state.best, "potential": run.potential.networks.flat()}
    if run.state.conditioning is not None:
        tensors |= dict(zip(INPUTS, run.state.conditioning, strict=True))
    found: dict[str, object] = {name: (t.dtype, tuple(t.shape), t.numpy().tobytes()) for name, t in tensors.items()}
    # The text form has NaN equal to itself, and every float by all its digits.
    found["members"] = [
        repr(MemberHistory.from_json(member["history"])) + repr(member["stopping"]) for member in run.state.members
    ]
    for name in ("settings", "data", "logs", "first_member", "done"):
        found[name] = getattr(run, name)
    potential = run.potential
    found["descriptor"] = potential.descriptor.identity()
    found["networks"] = (potential.networks.layer_sizes, potential.networks.activation, potential.networks.n_members)
    found["header"] = (potential.masses, potential.max_random, potential.energy_shift.tolist().__repr__())
    return found


@pytest.fixture(scope="module")
def sample() -> Run:
    return make_run()


@pytest.fixture
def saved(sample: Run, tmp_path: Path) -> Path:
    path = tmp_path / "run.h5"
    save_run(sample, path)
    return path


def refuse(path: Path, match: str | None = None) -> None:
    """An InputError that names the file; `is_run_file` does not mind either."""
    with pytest.raises(InputError, match=match) as raised:
        load_run(path)
    assert str(path) in str(raised.value)
    is_run_file(path)


class TestRoundTrip:
    def test_bit_for_bit(self, sample: Run, saved: Path) -> None:
        assert bits(load_run(saved)) == bits(sample)

    def test_histories_and_vectors_that_are_not_numbers(self, sample: Run, tmp_path: Path) -> None:
        """NaN, the infinities, -0, subnormal numbers, and NaN with a payload where numbers are binary."""
        odd = [NAN, INF, -INF, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]
        history = MemberHistory(
            loss=odd,
            validation=dict(enumerate(odd)),
            errors=[LabelErrors({"energy": value, "forces": value}) for value in odd],
            validation_errors={3: LabelErrors({"energy": NAN, "stress": INF})},
            n_restarts=3,
            n_evaluations=17,
            status="gave up",
            kept_step=2,
        )
        member = {"history": history.to_json(), "stopping": {"best": INF, "improved": NAN, "waiting": 2}}
        payload = np.array([0x7FF8000000000001, 0xFFF8DEADBEEF0000], dtype=np.uint64).view(np.float64)
        good = sample.state.last_finite.clone()
        good[0, :2] = torch.from_numpy(payload)
        optimizer = dict(sample.state.optimizer)
        optimizer["loss"] = torch.tensor([NAN, -INF], dtype=torch.float64)
        members = [member, sample.state.members[1]]
        state = replace(sample.state, members=members, optimizer=optimizer, last_finite=good)
        changed = replace(sample, state=state)
        save_run(changed, tmp_path / "run.h5")
        found = load_run(tmp_path / "run.h5")
        assert bits(found) == bits(changed)
        loaded = MemberHistory.from_json(found.state.members[0]["history"])
        assert [math.copysign(1, value) for value in loaded.loss[1:]] == [1, -1, -1, 1, 1, 1]
        assert loaded.loss[1:] == odd[1:]
        assert math.isnan(loaded.loss[0])

    @pytest.mark.parametrize("steps", [0, 1])
    def test_before_the_optimiser_knows_anything(self, tmp_path: Path, steps: int) -> None:
        run = make_run(members=1, steps=steps)
        save_run(run, tmp_path / "run.h5")
        assert bits(load_run(tmp_path / "run.h5")) == bits(run)

    def test_long_histories(self, sample: Run, tmp_path: Path) -> None:
        """Beyond the 64 KiB that an HDF5 attribute can hold."""
        history = MemberHistory(loss=np.random.default_rng(0).normal(size=20_000).tolist())
        member = {"history": history.to_json(), "stopping": sample.state.members[0]["stopping"]}
        long = replace(sample, state=replace(sample.state, members=[member, member]))
        save_run(long, tmp_path / "run.h5")
        assert (tmp_path / "run.h5").stat().st_size > 500_000
        assert bits(load_run(tmp_path / "run.h5")) == bits(long)

    def test_loaded_numbers_can_be_changed(self, saved: Path) -> None:
        run = load_run(saved)
        for tensor in (run.state.last_finite, run.state.best, *run.state.optimizer.values()):
            tensor.zero_()

    def test_same_bytes_whenever_it_is_written(self, sample: Run, saved: Path, tmp_path: Path) -> None:
        first = saved.read_bytes()
        time.sleep(1.1)  # HDF5 notes times in whole seconds, where it notes them
        save_run(load_run(saved), tmp_path / "again.h5")
        assert (tmp_path / "again.h5").read_bytes() == first

    def test_permissions_are_those_of_any_new_file(self, saved: Path) -> None:
        (saved.parent / "plain").touch()
        assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode


def specified_hash(path: Path) -> str:
    """The recipe of the specification, with nothing of the package."""
    digest = hashlib.sha256()
    with h5py.File(path) as file:
        texts = {name: file["text"][name][...].tobytes() for name in file["text"]}
        for name in sorted(texts):
            if name != "content_hash":
                digest.update(name.encode() + b"\0" + texts[name] + b"\0")
        for name in sorted(f"{group}/{name}" for group in set(file) - {"text", "notes"} for name in file[group]):
            values = file[name][...]
            shape = ", ".join(map(str, values.shape)) + ("," if values.ndim == 1 else "")
            digest.update(f"{name}{values.dtype.str}({shape})".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def text_of(path: Path, name: str) -> str:
    with h5py.File(path) as file:
        return file["text"][name][...].tobytes().decode()


class TestLayout:
    def test_objects(self, sample: Run, saved: Path) -> None:
        with h5py.File(saved) as file:
            assert sorted(file) == ["inputs", "optimizer", "text", "weights"]
            assert sorted(file["inputs"]) == INPUTS
            assert sorted(file["text"]) == TEXTS
            assert sorted(file["weights"]) == WEIGHTS
            assert sorted(file["optimizer"]) == sorted(sample.state.optimizer)
            assert list(file.attrs) == ["version"]
            assert file.attrs["version"] == 2
            assert np.issubdtype(file.attrs["version"].dtype, np.integer)
            for name in TEXTS:
                assert file["text"][name].dtype.str == "|u1", name
            n_parameters = sample.potential.networks.flat().shape[1]
            for name in WEIGHTS:
                assert file["weights"][name].dtype.str == "<f8", name
                assert file["weights"][name].shape == (2, n_parameters), name
            for name in INPUTS:
                assert file["inputs"][name].dtype.str == "<f8", name
                assert file["inputs"][name].shape == (2, sample.potential.descriptor.n_features), name

    def test_inputs_as_they_are_are_version_1(self, sample: Run, tmp_path: Path) -> None:
        """Earlier programs read it."""
        plain = replace(sample, state=replace(sample.state, conditioning=None))
        save_run(plain, tmp_path / "run.h5")
        with h5py.File(tmp_path / "run.h5") as file:
            assert (sorted(file), file.attrs["version"]) == (["optimizer", "text", "weights"], 1)
        assert load_run(tmp_path / "run.h5").state.conditioning is None
        assert bits(load_run(tmp_path / "run.h5")) == bits(plain)

    def test_texts(self, sample: Run, saved: Path) -> None:
        assert text_of(saved, "format") == "pyfit-gpu run"
        assert text_of(saved, "created_by").startswith("pyfit-gpu ")
        assert json.loads(text_of(saved, "logs")) == {"out/Å loss.txt": [2, 123], "b.txt": [0, 0]}
        assert json.loads(text_of(saved, "settings")) == sample.settings
        assert json.loads(text_of(saved, "data")) == sample.data
        assert json.loads(text_of(saved, "first_member")) == 4
        assert json.loads(text_of(saved, "done")) is False
        members = json.loads(text_of(saved, "members"))
        assert [set(member) for member in members] == [{"history", "stopping"}] * 2
        assert [len(member["history"]["loss"]) for member in members] == [4, 4]

    def test_hash(self, saved: Path) -> None:
        assert text_of(saved, "content_hash") == specified_hash(saved)

    def test_other_storage_of_the_same_numbers(self, sample: Run, saved: Path) -> None:
        with h5py.File(saved, "r+") as file:
            for name in WEIGHTS:
                values = file["weights"][name][...]
                del file["weights"][name]
                file["weights"].create_dataset(name, data=values, compression="gzip")
        assert bits(load_run(saved)) == bits(sample)

    def test_additions_outside_are_ignored(self, sample: Run, saved: Path) -> None:
        with h5py.File(saved, "r+") as file:
            file.attrs["comment"] = "mine"
            file.create_dataset("notes/numbers", data=np.zeros(3))
        assert bits(load_run(saved)) == bits(sample)


def datasets(path: Path) -> dict[str, tuple[int, int]]:
    """Where in the file the bytes of each dataset lie, and how many."""
    found: dict[str, tuple[int, int]] = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.id.get_storage_size():
            found[name] = (item.id.get_offset(), item.id.get_storage_size())

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a run file, and give it the hash of its new content: only its own rules can refuse it."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    content_hash = specified_hash(path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        say("content_hash", content_hash)(file)


def replace_by(name: str, value: object) -> Callable[[h5py.File], None]:
    """Put other numbers in place of a dataset; None takes it out."""

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def say(name: str, text: str) -> Callable[[h5py.File], None]:
    return replace_by(f"text/{name}", np.frombuffer(text.encode(), dtype=np.uint8))


DEEP = "[" * 50_000 + "]" * 50_000
TEXT_VALUES = {
    "members": ["[]", "{}", "1", "[1, 2]", '[{"history": {}, "stopping": {}}]', "nothing", DEEP],
    "settings": ["[]", "null", '"text"', "{", DEEP],
    "data": ["[]", "null", "{]", DEEP],
    "logs": [
        "[1]",
        '{"a": 1}',
        '{"a": [1]}',
        '{"a": [1, -2]}',
        '{"a": [1, 2, 3]}',
        '{"a": [1, "2"]}',
        '{"a": [1, 0.5]}',
    ],
    "first_member": ["-1", "0.5", "true", "null", "[0]", "1e3", "9" * 40, "9" * 5000],
    "done": ["1", "null", '"true"', "[]"],
    "potential_header": ["x", "1\n2\n3", "5 0.5 1\n1\nSi 28\n" + "9" * 100],
}


class TestDamage:
    def test_a_flipped_bit_in_any_dataset(self, saved: Path) -> None:
        raw = saved.read_bytes()
        found = datasets(saved)
        assert {f"text/{name}" for name in TEXTS} | {f"weights/{name}" for name in WEIGHTS} <= set(found)
        assert len(found) > 20
        for offset, size in found.values():
            for place in (0, size // 2, size - 1):
                damaged = bytearray(raw)
                damaged[offset + place] ^= 1
                saved.write_bytes(damaged)
                refuse(saved)

    def test_a_flipped_bit_anywhere_else(self, sample: Run, saved: Path) -> None:
        """In HDF5's own structures: refused, or of no consequence (unused bytes)."""
        raw = saved.read_bytes()
        inside = np.zeros(len(raw), dtype=bool)
        for offset, size in datasets(saved).values():
            inside[offset : offset + size] = True
        places = np.flatnonzero(~inside)
        expected, draw, n_refused = bits(sample), random.Random(5), 0
        for _ in range(400):
            damaged = bytearray(raw)
            damaged[draw.choice(places)] ^= 1 << draw.randrange(8)
            saved.write_bytes(damaged)
            try:
                found = load_run(saved)
            except InputError as error:
                assert str(saved) in str(error)  # noqa: PT017 - either outcome is right
                n_refused += 1
            else:
                assert bits(found) == expected
        assert n_refused > 200

    def test_truncated(self, saved: Path) -> None:
        raw = saved.read_bytes()
        for length in (1, 7, 8, 40, 96, 500, *(len(raw) * k // 12 for k in range(1, 12)), len(raw) - 1):
            saved.write_bytes(raw[:length])
            refuse(saved)

    @pytest.mark.parametrize("name", [f"text/{name}" for name in TEXTS])
    def test_missing_text(self, saved: Path, name: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file[name]
        refuse(saved)

    @pytest.mark.parametrize("name", ["text", "weights", "optimizer", "weights/good", "weights/kept",
                                      "weights/potential", "optimizer/weights", "optimizer/known"])  # fmt: skip
    def test_missing_numbers(self, saved: Path, name: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file[name]
        refuse(saved)

    @pytest.mark.parametrize("value", ["a group", "words", "records", "a number", "nothing"])
    @pytest.mark.parametrize("name", ["text/format", "text/members", "text/content_hash", "weights/good"])
    def test_something_else_in_place_of_a_dataset(self, saved: Path, name: str, value: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file[name]
            if value == "a group":
                file.create_group(f"{name}/inside")
            else:
                made = {
                    "words": np.array(["a", "b"], dtype=h5py.string_dtype()),
                    "records": np.zeros(5, dtype=[("x", "<f8"), ("y", "<f8")]),
                    "a number": np.float64(1.0),
                    "nothing": h5py.Empty("f8"),
                }
                file.create_dataset(name, data=made[value])
        refuse(saved)

    @pytest.mark.parametrize("name", ["text", "weights", "optimizer"])
    def test_a_dataset_in_place_of_a_group(self, saved: Path, name: str) -> None:
        with h5py.File(saved, "r+") as file:
            del file[name]
            file[name] = np.zeros(3)
        refuse(saved)

    def test_another_type_or_shape_of_the_same_bytes(self, saved: Path) -> None:
        for change in (lambda values: values.view(np.int64), lambda values: values.reshape(-1, 2)):
            with h5py.File(saved, "r+") as file:
                values = file["weights/good"][...]
                del file["weights/good"]
                file["weights/good"] = change(values)
            refuse(saved, "damaged")

    @pytest.mark.parametrize("value", [0, 4, "1", np.array([1.0, 2.0]), h5py.Empty("f8"), None])
    def test_other_version(self, saved: Path, value: object) -> None:
        with h5py.File(saved, "r+") as file:
            if value is None:
                del file.attrs["version"]
            else:
                file.attrs["version"] = value
        refuse(saved, "expected run file version 3 or earlier, found")

    @pytest.mark.parametrize("name", INPUTS)
    @pytest.mark.parametrize("value", [np.ones((2, 3)), np.ones(4), math.nan, math.inf, None])
    def test_conditioning(self, saved: Path, name: str, value: object) -> None:
        if isinstance(value, float):
            with h5py.File(saved) as file:
                numbers = file["inputs"][name][...]
            numbers[1, 2] = value
            value = numbers
        edit(saved, replace_by(f"inputs/{name}", value))
        refuse(saved, f"inputs/{name}")

    @pytest.mark.parametrize("scale", [0.0, -1.0])
    def test_scale(self, sample: Run, saved: Path, scale: float) -> None:
        edit(saved, replace_by("inputs/scale", np.full((2, sample.potential.descriptor.n_features), scale)))
        refuse(saved, "not as specified: inputs/scale: expected finite numbers")

    def test_not_a_run_file(self, tmp_path: Path) -> None:
        path = tmp_path / "run.h5"
        with h5py.File(path, "w") as file:
            file["data"] = [1, 2, 3]
        refuse(path, r"expected a run file \('pyfit-gpu run'\), found another HDF5 file")
        save_training_set(make_set(), path)
        refuse(path, r"expected a run file \('pyfit-gpu run'\), found another HDF5 file")
        assert not is_run_file(path)
        path.write_bytes(b"")
        refuse(path)
        path.write_text("a text\n")
        refuse(path)
        refuse(tmp_path / "nowhere.h5", "No such file")
        refuse(tmp_path, "directory")

    @pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("format", "created_by", "content_hash")])
    def test_missing_text_with_the_right_hash(self, saved: Path, name: str) -> None:
        edit(saved, lambda file: file["text"].__delitem__(name))
        refuse(saved, f"not as specified: text/{name} is missing")

    @pytest.mark.parametrize("name", TEXT_VALUES, ids=lambda name: name.replace(" ", "_"))
    def test_other_texts_with_the_right_hash(self, saved: Path, name: str) -> None:
        for text in TEXT_VALUES[name]:
            edit(saved, say(name, text))
            refuse(saved, f"not as specified: (text/)?{name}|weights/potential: expected")

    @pytest.mark.parametrize("change", [{"loss": "1"}, {"loss": [None]}, {"status": None}, {"validation": [[1]]},
                                        {"validation": [[-1, 0.5]]}, {"validation": {}}, {"errors": [1.0]},
                                        {"validation_errors": [["1", []]]}, {"n_restarts": 0.5}, {"kept_step": True},
                                        {"n_evaluations": None}])  # fmt: skip
    def test_other_histories(self, sample: Run, saved: Path, change: dict[str, object]) -> None:
        history = {**sample.state.members[1]["history"], **change}
        members = [sample.state.members[0], {**sample.state.members[1], "history": history}]
        edit(saved, say("members", json.dumps(members)))
        refuse(saved, "text/members: expected histories")
        with pytest.raises(InputError, match="text/members: expected histories"):
            load_run_members(saved)

    @pytest.mark.parametrize("name", [f"weights/{name}" for name in WEIGHTS])
    def test_other_numbers_with_the_right_hash(self, sample: Run, saved: Path, name: str) -> None:
        n_parameters = sample.potential.networks.flat().shape[1]
        values = [None, np.zeros((2, 5)), np.zeros((1, n_parameters)), np.zeros((2, n_parameters), dtype=np.int64),
                  np.zeros(2), np.float64(1.0), np.zeros((2, n_parameters), dtype=np.float32)]  # fmt: skip
        for value in values:
            edit(saved, replace_by(name, value))
            refuse(saved, f"not as specified: {name}: expected")

    def test_numbers_of_the_optimizer(self, saved: Path) -> None:
        edit(saved, replace_by("optimizer/known", np.zeros(5)))
        refuse(saved, "not as specified: optimizer/known: expected numbers of 2 members")

    @pytest.mark.parametrize("value", [NAN, INF])
    def test_parameters_that_are_not_numbers(self, sample: Run, saved: Path, value: float) -> None:
        potential = sample.potential.networks.flat().detach().numpy().copy()
        potential[1, -1] = value
        edit(saved, replace_by("weights/potential", potential))
        refuse(saved, "not as specified: weights/potential: expected finite numbers")

    def test_storage_elsewhere(self, saved: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        pipe = [(os.fspath(tmp_path / "pipe"), 0, 12)]
        with h5py.File(saved, "r+") as file:
            del file["text/format"]
            file.create_dataset("text/format", shape=(12,), dtype="|u1", external=pipe)
        refuse(saved, "text/format: expected numbers in the file itself")
        assert not is_run_file(saved)

    def test_run_files_know_themselves(self, saved: Path, tmp_path: Path) -> None:
        assert is_run_file(saved)
        assert not is_run_file(tmp_path / "nowhere.h5")
        assert not is_run_file(tmp_path)


OLD_AND_NEW = """old, new = load_run(folder / "old.h5"), load_run(folder / "new.h5")
"""


class TestKilledAndFull:
    @pytest.fixture(autouse=True)
    def two_runs(self, sample: Run, tmp_path: Path) -> None:
        save_run(sample, tmp_path / "old.h5")
        save_run(make_run(seed=8, steps=4), tmp_path / "new.h5")
        shutil.copy(tmp_path / "old.h5", tmp_path / "run.h5")

    def test_no_room(self, sample: Run, tmp_path: Path) -> None:
        """Whatever the limit on the file's size, there is a message, the old file stays and nothing else is left."""
        script = """
size = (folder / "new.h5").stat().st_size
for limit in (0, 1, 100, 5000, size // 3, size // 2, size - 100, size - 1):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save_run(new, folder / "run.h5")
        except InputError as error:
            print(json.dumps(["message", limit, str(error)]))
    _, status = os.waitpid(child(work), 0)
    print(json.dumps(["end", limit, status, sorted(os.listdir(folder))]), flush=True)
"""
        path = tmp_path / "run.h5"
        before = path.read_bytes()
        messages, ends = {}, {}
        for kind, limit, *rest in map(json.loads, run_script(OLD_AND_NEW + script, tmp_path).splitlines()):
            (messages if kind == "message" else ends)[limit] = rest
        assert ends == {limit: [0, ["new.h5", "old.h5", "run.h5"]] for limit in ends}
        assert len(messages) == len(ends) == 8
        for (message,) in messages.values():
            assert message.startswith(f"{path}: cannot write: ")
            assert "File too large" in message
        assert path.read_bytes() == before

    def test_killed(self, sample: Run, tmp_path: Path) -> None:
        """kill -9 before and after every sync and rename: the old file or the new one, whole, or none."""
        script = """
points = [(when, name, count) for name, count in (("fsync", 1), ("replace", 1), ("fsync", 2))
          for when in ("before", "after")]
for target in (folder / "run.h5", folder / "fresh.h5"):
    for when, name, count in points:
        if target.name == "run.h5":
            save_run(old, target)
        else:
            target.unlink(missing_ok=True)
        def work():
            real, left = getattr(os, name), [count]
            def patched(*arguments, **keywords):
                left[0] -= 1
                if left[0] == 0 and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*arguments, **keywords)
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            setattr(os, name, patched)
            save_run(new, target)
        _, status = os.waitpid(child(work), 0)
        content = target.read_bytes() if target.exists() else b""
        names = {(folder / f"{name}.h5").read_bytes(): name for name in ("old", "new")} | {b"": "none"}
        print(target.stem, status, names[content], flush=True)
"""
        rows = [line.split() for line in run_script(OLD_AND_NEW + script, tmp_path).splitlines()]
        assert [int(status) for _, status, _ in rows] == [signal.SIGKILL] * 12
        assert [content for _, _, content in rows] == [*["old"] * 3, *["new"] * 3, *["none"] * 3, *["new"] * 3]

    def test_nowhere_to_write(self, sample: Run, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere/run.h5: cannot write: the folder .* does not exist"):
            save_run(sample, tmp_path / "nowhere" / "run.h5")
        (tmp_path / "folder.h5").mkdir()
        with pytest.raises(InputError, match=r"folder.h5: cannot write: it is not a plain file"):
            save_run(sample, tmp_path / "folder.h5")


def test_the_potential_is_that_of_the_members(sample: Run, saved: Path) -> None:
    """All of them, with the weights that are kept and what their header says."""
    found: Potential = load_run(saved).potential
    assert found.networks.n_members == 2
    assert torch.equal(found.networks.flat(), sample.potential.networks.flat())
    assert found.descriptor == sample.potential.descriptor
