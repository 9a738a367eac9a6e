"""Which device a request means, on machines with no GPU and with several."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyfit_gpu.devices import describe_device, select_device, select_dtype, set_threads, total_memory
from pyfit_gpu.errors import InputError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = ["Fast GPU", "Slow GPU"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[torch.device("cuda", _index(device)).index])


def _index(device: object) -> int:
    return device if isinstance(device, int) else torch.device(device).index or 0


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.usefixtures("two_gpus")
class TestTwoGpus:
    def test_auto_takes_the_first(self) -> None:
        assert select_device() == torch.device("cuda", 0)
        assert select_device("auto") == torch.device("cuda", 0)

    @pytest.mark.parametrize(("request_", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
    def test_by_name(self, request_: str, index: int) -> None:
        assert select_device(request_) == torch.device("cuda", index)

    def test_cpu_although_there_are_gpus(self) -> None:
        assert select_device("cpu") == torch.device("cpu")

    @pytest.mark.parametrize("index", [2, 7, 10])
    def test_one_that_does_not_exist(self, index: int) -> None:
        """The message lists those that do."""
        with pytest.raises(InputError) as raised:
            select_device(f"cuda:{index}")
        message = str(raised.value)
        assert f"cuda:{index} does not exist" in message
        assert "cuda:0 (Fast GPU), cuda:1 (Slow GPU)" in message

    def test_description(self) -> None:
        assert describe_device(torch.device("cuda", 1)) == "cuda:1 (Slow GPU)"


@pytest.mark.usefixtures("no_gpu")
class TestNoGpu:
    def test_auto_takes_the_cpu(self) -> None:
        assert select_device("auto") == torch.device("cpu")

    @pytest.mark.parametrize("request_", ["cuda", "cuda:0", "cuda:3"])
    def test_asking_for_one_is_an_error(self, request_: str) -> None:
        with pytest.raises(InputError, match=r"cuda:\d does not exist; this machine has no GPU"):
            select_device(request_)

    def test_gpus_that_torch_cannot_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A card without a working driver counts as none."""
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert select_device("auto") == torch.device("cpu")
        with pytest.raises(InputError, match="no GPU that torch can use"):
            select_device("cuda:0")


@pytest.mark.parametrize(
    "request_", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1.0", "CUDA:0", "cuda:0 ", "mps", "0"]
)
def test_other_words(request_: str) -> None:
    with pytest.raises(InputError, match=rf"device: expected auto, cpu, cuda or cuda:N, got '{request_}'"):
        select_device(request_)


def test_description_of_the_cpu() -> None:
    assert describe_device(torch.device("cpu")) == "cpu (1 threads)"  # the tests run on one


def test_dtype() -> None:
    assert select_dtype("float64") is torch.float64
    assert select_dtype("float32") is torch.float32
    for name in ("float16", "double", "", "Float64"):
        with pytest.raises(InputError, match=rf"dtype: expected one of float64, float32, got '{name}'"):
            select_dtype(name)


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(2)
        assert torch.get_num_threads() == 2
        set_threads(0)  # torch's own choice stays
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class TestTotalMemory:
    """The machine has 1000 pages of 4096 bytes; control groups may give a job less."""

    MACHINE = 4_096_000

    @pytest.fixture(autouse=True)
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder that stands for the root of the file system."""
        monkeypatch.setattr("pyfit_gpu.devices.Path", lambda name: tmp_path / name.removeprefix("/"))
        pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
        monkeypatch.setattr("pyfit_gpu.devices.os", SimpleNamespace(sysconf=pages.__getitem__))
        (tmp_path / "proc" / "self").mkdir(parents=True)
        return tmp_path

    def limits(self, tree: Path, own: str, **limits: str) -> int:
        """Memory with a process in the group `own` and these contents of memory.max; `root` is the outermost group."""
        (tree / "proc/self/cgroup").write_text(own)
        for name, limit in limits.items():
            folder = tree / "sys/fs/cgroup" / name.replace("_", "/").removeprefix("root")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "memory.max").write_text(f"{limit}\n")
        return total_memory(torch.device("cpu"))

    def test_without_control_groups(self) -> None:
        assert total_memory(torch.device("cpu")) == self.MACHINE

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ({"slurm_job7_step0": "1000000"}, 1_000_000),
            ({"slurm_job7_step0": "max", "slurm_job7": "2000000"}, 2_000_000),
            ({"slurm_job7_step0": "3000000", "slurm_job7": "2000000", "slurm": "max"}, 2_000_000),
            ({"slurm_job7_step0": "1000000", "slurm_job7": "2000000"}, 1_000_000),
            ({"slurm": "500000"}, 500_000),
            ({"root": "400000"}, 400_000),
            ({"slurm_job7_step0": "max"}, MACHINE),
            ({"slurm_job7_step0": "9000000000"}, MACHINE),
            ({"slurm_job7_step1": "1000", "slurm_job8": "1000", "other": "1000"}, MACHINE),
            ({"slurm_job7_step0": "", "slurm_job7": "2000000"}, 2_000_000),
        ],
        ids=str,
    )
    def test_the_smallest_limit_of_all_groups_around_it(
        self, tree: Path, limits: dict[str, str], expected: int
    ) -> None:
        assert self.limits(tree, "0::/slurm/job7/step0\n", **limits) == expected

    def test_a_process_in_the_outermost_group(self, tree: Path) -> None:
        """The process is in the outermost group, as in a container."""
        assert self.limits(tree, "0::/\n", root="300000", slurm="1000") == 300_000

    def test_nothing_above_the_control_groups_is_read(self, tree: Path) -> None:
        (tree / "sys/fs/cgroup/a").mkdir(parents=True)
        for folder in ("sys/fs", "sys"):
            (tree / folder / "memory.max").write_text("1000\n")
        assert self.limits(tree, "0::/a\n") == self.MACHINE

    def test_version_1_says_nothing(self, tree: Path) -> None:
        assert self.limits(tree, "12:memory:/slurm\n3:cpu:/slurm\n", slurm="1000") == self.MACHINE

    def test_version_2_among_the_lines_of_version_1(self, tree: Path) -> None:
        assert self.limits(tree, "12:memory:/other\n0::/slurm\n", slurm="200000", other="1000") == 200_000

    def test_of_a_gpu(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its own, whatever the host has."""
        properties = {0: SimpleNamespace(total_memory=8 * 2**30), 1: SimpleNamespace(total_memory=80 * 2**30)}
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
        assert total_memory(torch.device("cuda", 1)) == 80 * 2**30


def test_the_memory_of_this_machine() -> None:
    memory = total_memory(torch.device("cpu"))
    assert type(memory) is int
    assert 2**27 < memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert total_memory(torch.device("cpu")) == memory


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu() -> None:
    assert select_device("auto").type == "cuda"
    with pytest.raises(InputError, match="cuda:0"):
        select_device(f"cuda:{torch.cuda.device_count()}")
