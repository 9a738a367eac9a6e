"""Lists of runs for accuracy.py, one file per question, most important first: `python accuracy_lists.py FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Run = dict[str, Any]

B1, B3 = [[2, 2, 2]], [[1, 1, 2], [1, 2, 3], [2, 2, 2]]
B5 = [*B3, [2, 2, 4], [2, 3, 3]]
RICH = {"gi_mode": 6, "legendre_orders": [0, 1, 2, 3, 4], "cross_terms": 1, "triples": B3}
PLAIN = {"gi_mode": 5, "legendre_orders": [0, 1, 2, 3, 4, 6], "cross_terms": 0, "triples": []}

# What the runs of one set share: cutoffs reach the second or third shell of neighbours.
SETS: dict[str, Run] = {
    "mlearn_si": {"hidden": [None, 24], "parameters": 2385, "steps": 64, "train_fraction": 0.66},
    "sic": {"hidden": [16, 16], "force_weight": 0.03, "stress_weight": 0.1, "steps": 64, "train_fraction": 0.75,
            "descriptor": {"cutoff": 4.5}},
    "si": {"hidden": [16, 16], "force_weight": 0.1, "stress_weight": 0.1, "steps": 64, "train_fraction": 0.75},
    "tersoff_sigec": {"hidden": [16, 16], "steps": 64, "train_fraction": 0.75, "descriptor": {"cutoff": 4.0}},
    "tersoff_sic": {"hidden": [16, 16], "steps": 64, "train_fraction": 0.75, "descriptor": {"cutoff": 4.0}},
    "nist": {"hidden": [16, 16], "force_weight": 0.0, "steps": 160, "train_fraction": 0.9},
}  # fmt: skip
FORCES = ("mlearn_si", "sic", "si", "tersoff_sigec")


def run(data: str, name: str, descriptor: Run | None = None, **settings: Any) -> Run:
    """A run of one set, which changes descriptor keys of the default and other settings."""
    own = SETS[data]
    shared = {"data": data, "members": 3, "splits": [2, 3], "conditioning": "half"}
    return {
        **shared, **own, **settings, "name": name,
        "descriptor": {**own.get("descriptor", {}), **RICH, **(descriptor or {})},
    }  # fmt: skip


def each(sets: Iterable[str], name: str, descriptor: Run | None = None, **settings: Any) -> list[Run]:
    return [run(data, name, descriptor, **settings) for data in sets]


def core() -> list[Run]:
    """Both modes, and what conditioning does: three splits."""
    runs = each(SETS, "mode 6", splits=[2, 3, 4]) + each(SETS, "mode 5", PLAIN, splits=[2, 3, 4])
    return runs + each(SETS, "mode 5, raw", PLAIN, conditioning="none")


def terms() -> list[Run]:
    """Orders, cross terms and triples; for two and three elements also which blocks pay."""
    with_six = [0, 1, 2, 3, 4, 6]
    runs = []
    for name, change in (
        ("no triples", {"triples": []}),
        ("(222)", {"triples": B1}),
        ("c 0", {"cross_terms": 0}),
        ("c 0 (222)", {"cross_terms": 0, "triples": B1}),
        ("orders 0-3", {"legendre_orders": [0, 1, 2, 3]}),
        ("five triples", {"triples": B5}),
        ("orders 0-4 6", {"legendre_orders": with_six}),
        ("c 2", {"cross_terms": 2}),
        ("orders 0-2 (112)(222)", {"legendre_orders": [0, 1, 2], "triples": [[1, 1, 2], [2, 2, 2]]}),
        ("(112)(222)", {"triples": [[1, 1, 2], [2, 2, 2]]}),
    ):
        runs += each((*FORCES, "tersoff_sic"), name, change)
    return runs


def blocks() -> list[Run]:
    """Compare blocks of several elements: blind to the element, of one element only, all."""
    runs = []
    for name, change in (
        ("triples blind", {"triple_blocks": "blind"}),
        ("triples same", {"triple_blocks": "same"}),
        ("(222) blind", {"triples": B1, "triple_blocks": "blind"}),
        ("cross blind", {"cross_blocks": "blind"}),
        ("cross same, triples blind", {"cross_blocks": "same", "triple_blocks": "blind"}),
        ("cross and triples blind", {"cross_blocks": "blind", "triple_blocks": "blind"}),
    ):
        runs += each(("sic", "tersoff_sic", "tersoff_sigec"), name, change)
    return runs


def fitting() -> list[Run]:
    """Force weight, penalty, conditioning."""
    runs = []
    for weight in (0.003, 0.01, 0.03, 0.1, 0.3):
        runs += each(FORCES, f"force weight {weight}", force_weight=weight)
    for scale in (0.1, 0.3, 1.0, 3.0):
        runs += each(FORCES, f"force weight, scale {scale}", force_weight={"scale": scale})
    for l2 in (1e-5, 1e-3, 3e-3):
        runs += each((*FORCES, "nist"), f"l2 {l2:g}", l2=l2)
    for kind in ("std", "centre", "none"):
        runs += each((*FORCES, "nist"), f"mode 6, {kind}", conditioning=kind)
    return runs


def layers() -> list[Run]:
    runs = []
    for hidden in ([16, 16], [24, 24], [32, 32], [48, 32], [64, 32], [24], [8, 8]):
        runs += each((*FORCES, "nist"), f"layers {'-'.join(map(str, hidden))}", hidden=hidden)
    return runs


def centers() -> list[Run]:
    """Number, width and first of the Gaussian centres, and the cutoff with the same spacing and last centre."""
    runs = []
    for number, width in ((6, 0.8), (6, 0.65), (6, 0.5), (8, 0.35), (8, 0.65), (8, 0.8), (10, 0.35), (10, 0.5),
                          (12, 0.35), (12, 0.5)):  # fmt: skip
        change = {"n_centers": number, "gaussian_width": width}
        runs += each(("mlearn_si", "sic", "si"), f"{number} centres, width {width}", change)
    for first in (1.0, 1.3, 1.9):
        runs += each(FORCES, f"first centre {first}", {"first_center": first})
    for cutoff in (3.5, 4.0, 4.5, 5.0, 5.5, 6.0):
        runs += each(("mlearn_si", "sic", "si"), f"cutoff {cutoff}", {"cutoff": cutoff})
    for width in (0.5, 1.5):
        runs += each(("mlearn_si", "sic"), f"cutoff width {width}", {"cutoff_width": width})
    return runs


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, make in enumerate((core, terms, blocks, fitting, layers, centers), 1):
        runs = make()
        n_jobs = sum(len(one["splits"]) for one in runs)
        path = folder / f"{number}_{make.__name__}.json"
        path.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")
        print(f"{path}: {len(runs)} runs, {n_jobs} jobs")


if __name__ == "__main__":
    main()
