"""Looks of groups: all different, or the small groups gathered."""

from __future__ import annotations

import pytest

from pyfit_gpu.report.looks import MARKERS, N_LOOKS, OTHERS, Legend, colour_of, marker_of


def test_all_looks_differ() -> None:
    assert len({(colour_of(look), marker_of(look)) for look in range(N_LOOKS + 1)}) == N_LOOKS + 1
    assert all(0 <= marker_of(look) < len(MARKERS) for look in range(N_LOOKS + 1))


@pytest.mark.parametrize("count", [1, 10, 11, 20])
def test_every_group_has_a_look_of_its_own(count: int) -> None:
    legend = Legend.of([f"g{k:02}" for k in range(count)] * 2)
    assert sorted(legend.looks.values()) == list(range(count))
    assert legend.n_others == 0
    assert list(legend.gathered().values()) == [[f"g{k:02}"] for k in range(count)]


def test_small_groups_share_one_look() -> None:
    legend = Legend.of([f"g{k:02}" for k in range(30) for _ in range(k + 1)])
    own = {name for name, look in legend.looks.items() if look != OTHERS}
    assert own == {f"g{k:02}" for k in range(11, 30)}
    assert legend.label("g03") == legend.label("g10") == "others (11 groups)"
    assert legend.label("g29") == "g29"
    *_, last = legend.gathered().values()
    assert last == [f"g{k:02}" for k in range(11)]
    assert len(legend.gathered()) == 20


def test_nothing() -> None:
    assert Legend.of([]).gathered() == {}
