"""The same bits whatever is computed beside a structure: by construction of every product, and as the outcome.

Libraries may round a matrix product by its shape, its strides and the addresses of its matrices. What is shown here is
that none of these depends on the other structures of a batch. So it holds on processors that nobody has tried, unless
a library looks at something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from bond_order_samples import make_bond_order
from sample_sets import make_potential
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.descriptors import lsp
from pyfit_gpu.models.batches import Batch, batches, featurize
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import Prediction, predict, predict_batch
from pyfit_gpu.parallel import one_thread
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cell_list import _Comparison
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.objective import Objective

MakeFrame = Callable[..., Frame]

LINE = 64  # bytes
DTYPES = [torch.float64, torch.float32]
ELEMENTS = [("Si",), ("Si", "C")]
SETTINGS = [
    {},
    {"legendre_orders": (0, 1, 2, 4, 6), "gaussian_centers": (1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0), "hidden": (16, 16)},
    {"legendre_orders": (2,), "gaussian_centers": (2.5,), "hidden": (3, 1)},
    {"legendre_orders": (0, 1, 3), "gi_mode": 3, "hidden": (33,)},
    {
        "legendre_orders": (0, 1, 2, 3, 4),
        "gaussian_centers": (1.5, 2.0, 2.5, 3.0, 3.5),
        "gi_mode": 6,
        "cross_terms": 2,
        "triples": ((1, 1, 2), (1, 2, 3), (2, 2, 2)),
        "hidden": (16,),
    },
    {"informed": True},
]


class Products(TorchDispatchMode):
    """Notes the shape, strides and addresses of every matrix product of this thread, and the most threads for one."""

    NAMES = ("bmm", "baddbmm", "mm", "addmm", "mv", "addmv", "dot", "linear", "addbmm")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[Any, ...]] = set()
        self.most_threads = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0].rstrip("_")
        if name in self.NAMES:
            factors = [
                x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor) and x.dim() == result.dim()
            ]
            self.most_threads = max(self.most_threads, torch.get_num_threads())
            self.found.add((name, *(self.form(tensor) for tensor in factors), self.form(result)))
        return result

    @staticmethod
    def form(tensor: Tensor) -> tuple[Any, ...]:
        """Shape and strides of one matrix of a batch, and where the matrices begin modulo a line."""
        if tensor.dim() != 3:  # no batch: everything that there is
            return "alone", tuple(tensor.shape), tensor.stride(), tensor.data_ptr() % LINE
        step = tensor.stride(0) * tensor.itemsize
        begins = frozenset((tensor.data_ptr() + k * step) % LINE for k in range(len(tensor)))
        return tuple(tensor.shape[1:]), tensor.stride()[1:], begins


@contextmanager
def products() -> Iterator[set[tuple[Any, ...]]]:
    with Products() as mode:
        yield mode.found


def batch_of(frames: Sequence[Frame], potential: Potential) -> Batch:
    structures = Structures.from_frames(frames, dtype=potential.dtype)
    (batch,) = batches(structures.sizes, structures.select, potential)
    return batch


def make(settings: dict[str, Any], elements: Sequence[str], n_members: int, dtype: torch.dtype) -> Potential:
    if settings.get("informed"):
        one = make_bond_order(elements)
        moved = [
            replace(one.networks, biases=tuple(b + 0.01 * k for b in one.networks.biases)) for k in range(n_members)
        ]
        return join_members([replace(one, networks=networks) for networks in moved]).to("cpu", dtype)
    members = [make_potential(elements, seed=3 + k, **settings) for k in range(n_members)]
    return join_members(members).to("cpu", dtype)


CASES = [
    pytest.param(settings, elements, n_members, dtype, id=f"{k}-{''.join(elements)}-{n_members}-{dtype}")
    for k, settings in enumerate(SETTINGS)
    for elements in ELEMENTS
    for n_members in ((1, 9) if k < 2 else (1, 2) if "informed" in settings else (1,))
    for dtype in DTYPES
]


class TestConstruction:
    @pytest.mark.parametrize(("settings", "elements", "n_members", "dtype"), CASES)
    @pytest.mark.parametrize("derivatives", [False, True], ids=["energies", "forces"])
    def test_products_are_those_of_the_structure_alone(
        self,
        random_frame: MakeFrame,
        settings: dict[str, Any],
        elements: Sequence[str],
        n_members: int,
        dtype: torch.dtype,
        derivatives: bool,
    ) -> None:
        """Many copies: every product has the form of one for a single structure, and every matrix that address."""
        potential = make(settings, elements, n_members, dtype)
        frame = random_frame(11, 7, elements=elements, length=6.0)
        batch = batch_of([frame], potential)
        with products() as alone:
            predict_batch(potential, batch, derivatives=derivatives)
        assert len(alone) > 3
        for n_copies in (2, 3, 31):
            batch = batch_of([frame] * n_copies, potential)
            with products() as together:
                predict_batch(potential, batch, derivatives=derivatives)
            assert together == alone
        for name, *forms in alone:
            for form in forms:
                assert form[0] != "alone", f"{name}: a product without a batch has the shape of all atoms"
                assert form[-1] == {0}, f"{name}: {form}"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
    def test_among_others(
        self,
        random_frame: MakeFrame,
        mixed_frames: Callable[..., list[Frame]],
        elements: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        potential = make(SETTINGS[1], elements, 1, dtype)
        frame = random_frame(11, 7, elements=elements, length=6.0)
        one, several = (batch_of(frames, potential) for frames in ([frame], [*mixed_frames(elements), frame]))
        with products() as alone:
            predict_batch(potential, one)
        with products() as together:
            predict_batch(potential, several)
        assert alone <= together
        assert all(form[-1] == {0} for _, *forms in together for form in forms)

    @pytest.mark.usefixtures("three_threads")
    @pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
    @pytest.mark.parametrize("n_members", [1, 9])
    @pytest.mark.parametrize("few_pairs", [0, 10**6], ids=["workers", "calling thread"])
    def test_no_product_is_shared_by_threads(
        self,
        mixed_frames: Callable[..., list[Frame]],
        monkeypatch: pytest.MonkeyPatch,
        few_pairs: int,
        elements: Sequence[str],
        n_members: int,
    ) -> None:
        """They may cut it in another way: workers multiply, or the calling thread as the only one.

        Except for neighbours: what a product takes for one is compared exactly afterwards.
        """
        monkeypatch.setattr(lsp, "_FEW_PAIRS", few_pairs)
        monkeypatch.setattr(_Comparison, "_products", one_thread()(_Comparison._products))
        potential = make(SETTINGS[1], elements, n_members, torch.float64)
        structures = Structures.from_frames(mixed_frames(elements))
        with Products() as mode:
            for derivatives in (False, True):
                predict(potential, structures, derivatives=derivatives)
            featurize(structures, potential)
            training_set = build_training_set(structures, potential)
            for memory in (0.0, math.inf):
                objective = Objective(training_set, {"forces": 0.3, "stress": 0.2}, memory=memory)
                objective.evaluate(potential.networks.flat(), potential.networks)
        assert mode.most_threads == 1


class TestFunctions:
    """Elementwise functions must not depend on where in an array a number stands."""

    FUNCTIONS: ClassVar[dict[str, Callable[[Tensor], Tensor]]] = {
        "exp": torch.exp,
        "log": lambda x: x.abs().log(),
        "asinh": torch.asinh,
        "sqrt": lambda x: x.abs().sqrt(),
        "rsqrt": lambda x: x.abs().rsqrt(),
        "reciprocal": torch.reciprocal,
        "addcmul": lambda x: torch.addcmul(x, x, x, value=-0.37),
        "sigmoid_backward": lambda x: torch.ops.aten.sigmoid_backward(x, 0.3 * x),
    }

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_any_place(self, name: str, dtype: torch.dtype) -> None:
        function = self.FUNCTIONS[name]
        for value in torch.randn(20, dtype=dtype, generator=torch.Generator().manual_seed(1)):
            expected = function(value[None])[0]
            for length in (1, 3, 8, 15, 16, 17, 33, 64, 1003):
                for offset in (0, 1, 3):
                    array = value.expand(length + offset).clone()[offset:]
                    assert bool((function(array) == expected).all()), (length, offset)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_sigmoid_of_pairs_of_lines(self, dtype: torch.dtype) -> None:
        """The last numbers of an array are computed otherwise, unless it ends with two full lines."""
        for value in torch.randn(50, dtype=dtype, generator=torch.Generator().manual_seed(1)):
            values = [value.expand(n * 2 * LINE // dtype.itemsize).clone().sigmoid_() for n in (1, 2, 3, 8, 101)]
            assert all(bool((array == values[0][0]).all()) for array in values)


def together_and_alone(potential: Potential, frames: Sequence[Frame]) -> None:
    structures = Structures.from_frames(frames, dtype=potential.dtype)
    features = featurize(structures, potential).split(structures.sizes)
    energies = predict(potential, structures, derivatives=False)
    whole = predict(potential, structures)
    forces = of_structures(whole, structures.sizes)
    atomic = whole.atomic_energies.split(structures.sizes)
    assert torch.equal(whole.energy, energies.energy)
    for row in range(len(frames)):
        one = structures.select([row])
        assert torch.equal(featurize(one, potential), features[row]), row
        found = predict(potential, one)
        assert torch.equal(found.energy, whole.energy[[row]]), row
        assert torch.equal(found.atomic_energies, atomic[row]), row
        if found.spread is not None:
            assert torch.equal(found.spread.energy, whole.spread.energy[[row]]), row
            assert torch.equal(found.spread.forces, whole.spread.forces.split(structures.sizes)[row]), row
        assert torch.equal(predict(potential, one, derivatives=False).energy, whole.energy[[row]]), row
        assert found.forces is not None
        assert torch.equal(found.forces, forces[row]), row
        assert found.stress is not None
        assert whole.stress is not None
        assert torch.equal(found.stress.nan_to_num(), whole.stress[[row]].nan_to_num()), row


def of_structures(found: Prediction, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    assert found.forces is not None
    return found.forces.split(list(sizes))


class TestOutcome:
    @pytest.mark.parametrize(("settings", "elements", "n_members", "dtype"), CASES)
    def test_structures_alone_and_together(
        self,
        random_frame: MakeFrame,
        mixed_frames: Callable[..., list[Frame]],
        settings: dict[str, Any],
        elements: Sequence[str],
        n_members: int,
        dtype: torch.dtype,
    ) -> None:
        frames = mixed_frames(elements)
        frames += [random_frame(40 + k, 3 + k, elements=elements, length=4.5 + 0.3 * k) for k in range(6)]
        together_and_alone(make(settings, elements, n_members, dtype), frames)

    @pytest.mark.usefixtures("threads")
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("few_pairs", [0, 10**6], ids=["workers", "calling thread"])
    def test_with_any_number_of_threads(
        self,
        mixed_frames: Callable[..., list[Frame]],
        random_frame: MakeFrame,
        monkeypatch: pytest.MonkeyPatch,
        few_pairs: int,
        dtype: torch.dtype,
    ) -> None:
        monkeypatch.setattr(lsp, "_FEW_PAIRS", few_pairs)
        monkeypatch.setattr(lsp, "_CHUNK_CPU", (5, 300))
        potential = make(SETTINGS[1], ("Si", "C"), 1, dtype)
        frames = [*mixed_frames(("Si", "C")), random_frame(50, 40, length=9.0, elements=("Si", "C"))]
        structures = Structures.from_frames(frames, dtype=dtype)
        one = predict(potential, structures)
        torch.set_num_threads(3)
        together_and_alone(potential, frames)
        several = predict(potential, structures)
        assert torch.equal(several.energy, one.energy)
        assert several.forces is not None
        assert one.forces is not None
        assert torch.equal(several.forces, one.forces)
