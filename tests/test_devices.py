"""Which device a request means, on machines with no GPU and with several."""

from __future__ import annotations

import pytest
import torch

from pyfit_gpu.devices import describe_device, select_device, select_dtype, set_threads
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu() -> None:
    assert select_device("auto").type == "cuda"
    with pytest.raises(InputError, match="cuda:0"):
        select_device(f"cuda:{torch.cuda.device_count()}")
