"""Files are opened by what they hold, not by their names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from sample_sets import assert_same_set, make_potential, make_set, save_shard

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import read_head
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.opening import load_potentials, load_structures, load_training_set, read_frames
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.formats.training_set.shards import Shard

TEXT = """\
group_a
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


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "si.dat"
    path.write_text(TEXT + TEXT.replace("group_a", "group_b").replace("-10.5", "-10.25"))
    return path


@pytest.fixture
def xyz_file(tmp_path: Path) -> Path:
    path = tmp_path / "si.extxyz"
    atoms = Atoms("Si3", [(0, 0, 0), (2.2, 0, 0), (0, 2.2, 0)], cell=[5, 5, 5], pbc=True)
    atoms.info["energy"] = -15.75
    write(path, atoms, format="extxyz")
    return path


class TestStructures:
    def test_classic_text(self, text_file: Path) -> None:
        frames = list(read_frames(text_file))
        assert [(frame.group, frame.n_atoms, frame.energy) for frame in frames] == [
            ("group_a", 2, -10.5),
            ("group_b", 2, -10.25),
        ]

    def test_several_files_in_the_given_order(self, text_file: Path, xyz_file: Path) -> None:
        structures = load_structures(xyz_file, text_file, str(xyz_file))
        assert structures.sizes == (3, 2, 2, 3)
        assert structures.energy.tolist() == [-15.75, -10.5, -10.25, -15.75]
        assert structures.groups == ("si", "group_a", "group_b", "si")  # no group: the file's stem
        assert structures.positions.shape == (4, 3, 3)

    def test_dtype_and_device(self, text_file: Path) -> None:
        assert load_structures(text_file).positions.dtype == torch.float64
        assert load_structures(text_file, dtype=torch.float32).positions.dtype == torch.float32
        assert load_structures(text_file, device="meta").positions.device.type == "meta"

    def test_content_decides(self, text_file: Path, xyz_file: Path, tmp_path: Path) -> None:
        """Extended XYZ under a name that says nothing."""
        shutil.copy(xyz_file, tmp_path / "data")
        assert load_structures(tmp_path / "data").sizes == (3,)
        shutil.copy(text_file, tmp_path / "other")
        assert load_structures(tmp_path / "other").sizes == (2, 2)

    def test_a_training_set_holds_no_structures(self, tmp_path: Path) -> None:
        save_training_set(make_set(), tmp_path / "set.dat")
        with pytest.raises(InputError, match=r"set.dat: expected structures, found a training set \(HDF5\)"):
            load_structures(tmp_path / "set.dat")

    def test_other_texts_hold_no_structures(self, tmp_path: Path) -> None:
        """Though any text may be classic text: these surely are something else."""
        save_potential(make_potential(), tmp_path / "si.dat")
        with pytest.raises(InputError, match=r"si\.dat: expected structures, found a potential"):
            load_structures(tmp_path / "si.dat")
        write_text_set(make_set(), tmp_path / "set.dat")
        with pytest.raises(InputError, match=r"set\.dat: expected structures, found a training set \(classic text\)"):
            load_structures(tmp_path / "set.dat")

    def test_bad_files(self, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        with pytest.raises(InputError, match=r"empty: the file is empty"):
            load_structures(tmp_path / "empty")
        with pytest.raises(InputError, match=r"nowhere.*No such file"):
            load_structures(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"directory"):
            load_structures(tmp_path)
        (tmp_path / "binary").write_bytes(bytes(range(256)))
        with pytest.raises(InputError, match=r"binary"):
            load_structures(tmp_path / "binary")


class TestTrainingSets:
    @pytest.fixture
    def whole(self) -> TrainingSet:
        return make_set([2, 1, 3, 4, 2], energy_shift=(1.5,))

    def test_hdf5_whatever_its_name(self, whole: TrainingSet, tmp_path: Path) -> None:
        for name in ("set.h5", "set.hdf5", "set.json", "set"):
            save_training_set(whole, tmp_path / name)
            assert_same_set(load_training_set(tmp_path / name), whole)
            assert_same_set(load_training_set(str(tmp_path / name)), whole)

    def test_manifest(self, whole: TrainingSet, tmp_path: Path) -> None:
        for index in range(2):
            save_shard(whole.select(range(index, 5, 2)), tmp_path / "set.h5", Shard(index, 2, 5, "inputs"))
        assert_same_set(load_training_set(tmp_path / "set.json"), whole)
        text = (tmp_path / "set.json").read_text()
        (tmp_path / "set.json").write_text("\n  " + text)  # JSON may begin with blanks
        assert_same_set(load_training_set(tmp_path / "set.json"), whole)

    def test_text(self, whole: TrainingSet, tmp_path: Path) -> None:
        write_text_set(whole, tmp_path / "set.h5")  # a name that misleads
        found = load_training_set(tmp_path / "set.h5")
        assert found.sizes.tolist() == [2, 1, 3, 4, 2]
        np.testing.assert_allclose(found.features, whole.features, rtol=1e-6)

    def test_dtype_and_device(self, whole: TrainingSet, tmp_path: Path) -> None:
        save_training_set(whole, tmp_path / "set.h5")
        assert load_training_set(tmp_path / "set.h5", dtype=torch.float32).features.dtype == torch.float32
        assert load_training_set(tmp_path / "set.h5", device="meta").features.device.type == "meta"

    def test_other_files(self, text_file: Path, tmp_path: Path) -> None:
        save_potential(make_potential(), tmp_path / "si.nn.dat")
        for path, found in ((text_file, "another file"), (tmp_path / "si.nn.dat", r"a potential \(\.nn\.dat\)")):
            with pytest.raises(InputError, match=rf"{path.name}: expected a training set .*, found {found}"):
                load_training_set(path)
        (tmp_path / "config.json").write_text('{"run_training": true}')
        with pytest.raises(InputError, match=r"config.json: expected a training set"):
            load_training_set(tmp_path / "config.json")

    def test_bad_files(self, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        with pytest.raises(InputError, match=r"empty: the file is empty"):
            load_training_set(tmp_path / "empty")
        with pytest.raises(InputError, match=r"nowhere.*No such file"):
            load_training_set(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"directory"):
            load_training_set(tmp_path)


def test_head(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"abc" * 5000)
    assert read_head(tmp_path / "long").raw == b"abc" * 5000
    assert read_head(tmp_path / "long", 4).raw == b"abca"


class TestPotentials:
    @pytest.fixture
    def files(self, tmp_path: Path) -> list[Path]:
        files = [tmp_path / f"{number}.nn.dat" for number in range(3)]
        for seed, path in enumerate(files):
            save_potential(make_potential().randomized(seed), path)
        return files

    def test_in_the_given_order(self, files: list[Path]) -> None:
        joined = load_potentials([files[2], str(files[0]), files[1]], dtype=torch.float32)
        assert joined.dtype == torch.float32
        for number, path in enumerate((files[2], files[0], files[1])):
            alone = load_potential(path, dtype=torch.float32)
            assert torch.equal(joined.member(number).networks.flat(), alone.networks.flat())

    def test_one_file(self, files: list[Path]) -> None:
        alone = load_potential(files[1])
        for paths in (files[1], str(files[1]), [files[1]]):
            assert torch.equal(load_potentials(paths).networks.flat(), alone.networks.flat())

    def test_files_that_do_not_go_together(self, files: list[Path]) -> None:
        potential = load_potential(files[1])
        save_potential(replace(potential, descriptor=replace(potential.descriptor, cutoff=9.25)), files[1])
        with pytest.raises(InputError, match=r"1\.nn\.dat cannot be a member beside .*0\.nn\.dat: cutoff: .*9\.25"):
            load_potentials(files)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="members: expected at least one potential, got none"):
            load_potentials([])
        with pytest.raises(InputError, match=r"none\.nn\.dat: cannot read"):
            load_potentials([tmp_path / "none.nn.dat"])
