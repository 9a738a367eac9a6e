"""Fixtures that several test modules share: where the data lie, and small structures made on the spot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers

from pyfit_gpu.structures.frames import Frame

TESTS = Path(__file__).parent
MakeFrame = Callable[..., Frame]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="the long tests as well")
    parser.addoption("--kills", action="store_true", help="all of that, and many more kills at random moments")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests, unless they are asked for by `--slow` or one by one (file::test)."""
    asked_for = config.getoption("--slow") or config.getoption("--kills")
    if asked_for or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("slow")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture
def threads() -> Iterator[None]:
    """The number that a test chooses does not stay."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def three_threads(threads: None) -> None:
    torch.set_num_threads(3)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tests are small: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """SIGINT raises here too where a shell has started the tests in the background, which makes it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets are cut into several lanes too."""
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (1024, 1024, 1024))


@pytest.fixture(scope="session")
def own_data() -> Path:
    """Structures, potentials and their reference values, committed with the tests."""
    return TESTS / "data" / "own"


@pytest.fixture(scope="session")
def example_data() -> Path:
    """Silicon with energies, forces and stress, and a potential to start from, as the examples use them."""
    return TESTS.parent / "examples" / "data"


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The optional folder of reference data: beside the checkout, or where PYFIT_SHARED says."""
    folder = Path(os.environ.get("PYFIT_SHARED") or TESTS.parent.parent / "shared") / "reference"
    if not folder.is_dir():
        pytest.skip(f"the optional folder of reference data is not here ({folder}); PYFIT_SHARED may name another")
    return folder


@pytest.fixture(scope="session")
def make_frame() -> MakeFrame:
    """A frame from plain lists; a cell and pbc left out mean a molecule in vacuum."""

    def make(
        positions: Sequence[Sequence[float]] | np.ndarray,
        cell: Sequence[Sequence[float]] | np.ndarray | None = None,
        *,
        pbc: Sequence[bool] | None = None,
        symbols: Sequence[str] | None = None,
        source: str = "made.dat, structure 1 (line 1)",
        **labels: object,
    ) -> Frame:
        positions = np.array(positions, dtype=np.float64).reshape(-1, 3)
        periodic = cell is not None
        symbols = ["Si"] * len(positions) if symbols is None else symbols
        return Frame(
            positions=positions,
            cell=np.array(cell, dtype=np.float64) if periodic else np.zeros((3, 3)),
            pbc=np.array([periodic] * 3 if pbc is None else pbc, dtype=np.bool_),
            atomic_numbers=np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64),
            group="made",
            source=source,
            **labels,
        )

    return make


@pytest.fixture(scope="session")
def random_frame(make_frame: MakeFrame) -> MakeFrame:
    """A random structure in a random, skewed cell with no two atoms or images closer than 1.2 Å."""

    def make(
        seed: int,
        n_atoms: int,
        *,
        length: float = 5.5,
        skew: float = 0.5,
        elements: Sequence[str] = ("Si",),
        scatter: int = 0,
        **keywords: object,
    ) -> Frame:
        rng = np.random.default_rng(seed)
        while True:
            cell = length * (np.eye(3) + skew * rng.uniform(-1, 1, (3, 3)))
            fractional = rng.uniform(0, 1, (n_atoms, 3))
            difference = fractional[:, None] - fractional[None]
            images = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T  # the nearest are among these
            distances = np.linalg.norm((difference[:, :, None] + images) @ cell, axis=3)
            distances[np.arange(n_atoms), np.arange(n_atoms), len(images) // 2] = np.inf
            if distances.min() > 1.2 and abs(np.linalg.det(cell)) > 10.0:
                break
        # `scatter` moves each atom by whole cell vectors: the same crystal, atoms far outside the cell.
        fractional = fractional + rng.integers(-scatter, scatter + 1, (n_atoms, 3))
        symbols = [elements[k % len(elements)] for k in rng.permutation(n_atoms)]
        return make_frame(fractional @ cell, cell, symbols=symbols, **keywords)

    return make


@pytest.fixture(scope="session")
def mixed_frames(make_frame: MakeFrame, random_frame: MakeFrame) -> Callable[..., list[Frame]]:
    """Structures of unequal sizes and kinds: crystals, a cell with one atom, a molecule, lone atoms, a slab.

    All have random labels, also a stress where there is no cell to have one.
    """

    def make(elements: Sequence[str] = ("Si",), seed: int = 0) -> list[Frame]:
        rng = np.random.default_rng(seed)
        of = {"elements": elements}
        bent = [[0.0, 0.1, 0.0], [1.9, 0.0, 0.3], [0.4, 2.1, 0.2], [2.4, 2.2, 1.3]]
        symbols = [elements[k % len(elements)] for k in range(4)]
        frames = [
            random_frame(seed + 1, 5, **of),
            random_frame(seed + 2, 1, length=2.6, skew=0.3, **of),
            make_frame(bent, symbols=symbols),
            random_frame(seed + 3, 7, scatter=2, **of),
            make_frame([[0.3, 0.2, 0.1]], symbols=symbols[-1:]),
            make_frame([[0.3, 0.2, 0.1]], 12.0 * np.eye(3), symbols=symbols[-1:]),
            random_frame(seed + 4, 3, length=4.0, **of),
            random_frame(seed + 5, 2, pbc=[True, True, False], **of),
        ]
        return [
            replace(
                frame,
                source=f"made.dat, structure {k + 1}",
                energy=float(frame.n_atoms * rng.normal(-0.3, 0.1)),
                forces=rng.normal(size=(frame.n_atoms, 3)),
                stress=0.05 * rng.normal(size=6),
            )
            for k, frame in enumerate(frames)
        ]

    return make
