"""LBFGS against Gauss-Newton, and fixed penalties against the evidence, on the sets of the optional reference data.

    python tests/benchmarks/second_order.py run LIST.. --out RESULTS.jsonl [--seeds 1 2 3] [--n-threads 2]
        [--only PATTERN] [--most-seconds 500] [--device cpu] [--score-test]
    python tests/benchmarks/second_order.py steps [--device cuda] [--members 1 8] [--hidden 32 24] [--profile]
    python tests/benchmarks/second_order.py table RESULTS.jsonl [--marks 20 40 75 150 300]
    python tests/benchmarks/second_order.py plot RESULTS.jsonl --out FILE.png

LIST is one of `LISTS`: `nist` (equal penalties, the same start), `nist-auto` (penalty by the evidence), `nist-larger`
(40-48-32-1 against 40-16-16-1), `nist-penalties` and `mlearn-penalties` (seven decades against the evidence), `mlearn`.
Each line of the results is one fit: its errors against the seconds since its first row, in meV/atom and eV/Å, those of
validation at the least validation loss so far. Scoring of the rows is not counted. A tenth of the structures validates;
of NIST's all others train. mlearn's test structures are scored (`test`), with the parameters that are kept, only with
--score-test. `steps` times a step of Gauss-Newton on all of mlearn's structures to train on, 48 inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from members import load
from shared_sets import SETS, SharedSet

import pyfit_gpu as pf
from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.training.objective import Objective

Row = dict[str, float]

LBFGS: dict[str, Any] = {"optimizer": pf.LBFGSSettings()}
NEWTON: dict[str, Any] = {"optimizer": pf.GaussNewtonSettings()}
CHANGING: dict[str, Any] = {"optimizer": pf.AutoSettings()}
DECADES = [10.0**-k for k in range(10, 3, -1)]


@dataclass(frozen=True)
class Way:
    """One way to train."""

    name: str
    data: str  # "nist" or "mlearn"
    settings: dict[str, Any]  # of `FitSettings`
    seconds: float = 0.0  # 0: until the steps are done
    hidden: tuple[int, ...] = ()  # layers; empty: those of the set


def _squared(l2: float | str) -> dict[str, Any]:
    return {"l2": l2, "l2_form": "squared"}


def _penalties(data: str, steps: int) -> list[Way]:
    values: list[float | str] = [*DECADES, "auto"]
    return [
        Way(f"{data}, Gauss-Newton, l2 {l2 if l2 == 'auto' else format(l2, '.0e')}", data,
            {**NEWTON, **_squared(l2), "steps": steps})
        for l2 in values
    ]  # fmt: skip


LISTS: dict[str, list[Way]] = {
    "nist": [
        Way("nist, LBFGS, l2 1e-7", "nist", {**LBFGS, **_squared(1e-7)}, 300),
        Way("nist, Gauss-Newton, l2 1e-7", "nist", {**NEWTON, **_squared(1e-7)}, 75),
        Way("nist, auto, l2 1e-7", "nist", {**CHANGING, **_squared(1e-7)}, 75),
    ],
    "nist-auto": [
        Way("nist, Gauss-Newton, l2 auto", "nist", {**NEWTON, **_squared("auto")}, 150),
        Way("nist, auto, l2 auto", "nist", {**CHANGING, **_squared("auto")}, 150),
        Way("nist, LBFGS, l2 auto", "nist", {**LBFGS, **_squared("auto")}, 300),
    ],
    "nist-larger": [
        Way("nist, Gauss-Newton, l2 auto, 40-48-32-1", "nist", {**NEWTON, **_squared("auto")}, 500, (48, 32)),
        Way("nist, LBFGS, l2 1e-4 of norms, 500 s", "nist", {**LBFGS, "l2": 1e-4}, 500),
    ],
    "nist-penalties": _penalties("nist", 120),
    "mlearn-penalties": _penalties("mlearn", 40),
    "mlearn": [
        Way("mlearn, LBFGS, l2 1e-6", "mlearn", {**LBFGS, **_squared(1e-6), "steps": 160}),
        Way("mlearn, auto, l2 1e-6", "mlearn", {**CHANGING, **_squared(1e-6), "steps": 10**6}, 500),
        Way("mlearn, Gauss-Newton, l2 1e-6", "mlearn", {**NEWTON, **_squared(1e-6), "steps": 10**6}, 500),
    ],
}


class Curve:
    """Observer that keeps the errors of every row, with its time."""

    def __init__(self, data: SharedSet, validation: pf.TrainingSet) -> None:
        self.data, self.validation = data, validation
        self.rows: list[Row] = []
        self.started = math.nan
        self.paused = 0.0
        self.least = math.inf
        self.of_least: Row = {}

    def on_start(self) -> None:
        if math.isnan(self.started):
            self.started = time.perf_counter()

    def on_step(self, row: pf.StepRecord) -> None:
        now = time.perf_counter()
        assert row.validation is not None
        if row.validation < self.least:
            self.least = row.validation
            errors = self.data.errors(row.potential, self.validation)
            self.of_least = {f"validation {name}": value for name, value in errors.items()}
        self.rows.append({
            "seconds": now - self.started - self.paused, "step": row.step, "loss": 1e3 * row.loss,
            "validation loss": 1e3 * row.validation, "least validation loss": 1e3 * self.least, **self.of_least,
        })  # fmt: skip
        self.paused += time.perf_counter() - now


def fitted(way: Way, seed: int, device: str, most_seconds: float, *, score_test: bool) -> dict[str, Any]:
    """Errors of one fit against time."""
    data = SETS[way.data]()
    potential = data.potential
    if way.hidden:
        sizes = (potential.networks.layer_sizes[0], *way.hidden, 1)
        networks = ElementNetworks.random(sizes, potential.max_random, 1, n_elements=1, activation=1)
        potential = replace(potential, networks=networks)
    pool = load("cpu", torch.float64)[1] if way.data == "nist" else data.pool
    train, validation = (part.to(device) for part in pool.split(0.9, 2))
    seconds = min(way.seconds or math.inf, most_seconds)
    force_weight, stress_weight = balanced_weights(train) if data.force_weight else (0.0, 0.0)
    settings = pf.FitSettings(
        **{"steps": 10**6, "seed": seed, "max_time": 0.0 if seconds == math.inf else seconds, **way.settings},
        force_weight=force_weight,
        stress_weight=stress_weight,
    )
    curve = Curve(data, validation)
    history = pf.fit(potential.to(device), train, validation, members=1, settings=settings, observers=[curve])
    found = {"way": way.name, "seed": seed, "evaluations": history.n_evaluations, "rows": curve.rows}
    if score_test:
        found["test"] = data.errors(history.potential.to("cpu"), data.test)
    return found


class Clock:
    """Observer that notes when the rows of each step came."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}

    def on_start(self) -> None:
        pass

    def on_step(self, row: pf.StepRecord) -> None:
        self.times[row.step] = time.perf_counter()


def _steps_of(potential: pf.Potential, pool: pf.TrainingSet, settings: pf.FitSettings, members: int) -> list[float]:
    """Seconds of each step."""
    clock = Clock()
    pf.fit(potential, pool, members=members, settings=settings, observers=[clock] * members)
    return [second - first for first, second in pairwise(clock.times.values())]


def steps(options: argparse.Namespace) -> None:
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    data = SETS["mlearn"]()
    orders = (0, 1, 2, 3, 4, 6)
    descriptor = replace(data.potential.descriptor, legendre_orders=orders, cross_terms=0, triples=(), gi_mode=5)
    descriptor = replace(descriptor, gaussian_centers=tuple(1.5 + 0.5 * k for k in range(8)))
    networks = ElementNetworks.random((descriptor.n_features, *options.hidden, 1), 0.3, 1, n_elements=1, activation=1)
    potential = replace(data.potential, descriptor=descriptor, networks=networks)
    shift = -float(data.pool.energy.sum() / data.pool.n_atoms)
    pool = pf.build_training_set(data.pool.structures(), potential, e_shift=shift)
    force_weight = balanced_weights(pool)[0]
    potential, pool = potential.to(options.device), pool.to(options.device)
    print(f"{processor(options.device)}, torch {torch.__version__}, {pool.n_atoms} atoms, "
          f"layers {networks.layer_sizes}, P = {networks.n_parameters}")  # fmt: skip
    objective = Objective(pool, {"forces": force_weight})
    own = potential.networks.flat()
    for name, task in {
        "loss and gradient": lambda: objective.evaluate(own, potential.networks).errors.loss.tolist(),
        "J^T J": lambda: [matrix.sum().item() for matrix in objective.normal_matrices(own, potential.networks)],
    }.items():
        times = []
        for _ in range(6):
            started = time.perf_counter()
            task()
            times.append(time.perf_counter() - started)
        print(f"{name:20s} {1e3 * statistics.median(times[1:]):9.2f} ms")
    if options.profile:
        from torch.profiler import profile

        with profile() as found:
            for matrix in objective.normal_matrices(own, potential.networks):
                matrix.sum().item()
        key = "self_cuda_time_total" if options.device == "cuda" else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=60))
    settings = pf.FitSettings(steps=12, seed=1, force_weight=force_weight, keep="last", validation_interval=0)
    first = 0.0
    for members in options.members:
        for optimizer in (pf.GaussNewtonSettings(), pf.LBFGSSettings()):
            times = _steps_of(potential, pool, replace(settings, optimizer=optimizer), members)[2:]
            ms = 1e3 * statistics.median(times)
            first = first or ms
            print(f"a step of {optimizer.name:14s} K = {members}: {ms:9.2f} ms (least {1e3 * min(times):.2f}, most "
                  f"{1e3 * max(times):.2f}), {ms / first:.2f} times the first", flush=True)  # fmt: skip


def processor(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()


def run(options: argparse.Namespace) -> None:
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    print(f"{processor(options.device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    chosen = [way for name in options.lists for way in LISTS[name] if re.search(options.only, way.name)]
    for seed in options.seeds:
        for way in chosen:
            found = fitted(way, seed, options.device, options.most_seconds, score_test=options.score_test)
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            print(f"seed {seed}: {way.name:45s} {described(found['rows'][-1])}", flush=True)


def described(row: Row) -> str:
    parts = [f"{row['seconds']:6.1f} s, step {row['step']:4.0f}, loss {row['loss']:7.3f}",
             f"least validation loss {row['least validation loss']:7.3f}"]  # fmt: skip
    parts += [f"{name.removeprefix('validation ')} {value:.4g}" for name, value in row.items() if name in _SHOWN]
    return ", ".join(parts)


_SHOWN = ("validation energy RMSE", "validation energy MAE", "validation forces RMSE")


def at(rows: list[Row], mark: float) -> Row:
    """The last row by then."""
    return ([row for row in rows if row["seconds"] <= mark] or rows[:1])[-1]


def table(options: argparse.Namespace) -> None:
    fits: dict[str, list[dict[str, Any]]] = {}
    for path in options.results:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            fits.setdefault(one["way"], []).append(one)
    for way, own in fits.items():
        print(f"{way} (seeds {', '.join(str(one['seed']) for one in own)})")
        for mark in [mark for mark in options.marks if mark <= own[0]["rows"][-1]["seconds"] * 1.2] or [math.inf]:
            rows = [at(one["rows"], mark) for one in own]
            names = [name for name in ("loss", "least validation loss", *_SHOWN) if name in rows[0]]
            shown = {name: [row[name] for row in rows] for name in names}
            print(f"  {mark:6.0f} s  " + "  ".join(
                f"{name} {statistics.mean(values):.4g} ({' '.join(f'{value:.4g}' for value in values)})"
                for name, values in shown.items()))  # fmt: skip
    reference = next((own for way, own in fits.items() if "LBFGS" in way), [])
    for way, own in fits.items():
        for one in own:
            for other in (other for other in reference if other["seed"] == one["seed"] and other["way"] != way):
                goal = other["rows"][-1]["loss"]
                reached = next((row["seconds"] for row in one["rows"] if row["loss"] <= goal), math.inf)
                print(f"seed {one['seed']}: {way}: training loss {goal:.3f} of {other['way']} at "
                      f"{other['rows'][-1]['seconds']:.0f} s after {reached:.1f} s")  # fmt: skip


def plot(options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    colors: dict[str, str] = {}
    least = [math.inf, math.inf]
    for path in options.results:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            is_new = one["way"] not in colors
            color = colors.setdefault(one["way"], f"C{len(colors)}")
            rows = one["rows"][1:]
            for k, (axis, name) in enumerate(zip(axes, ("loss", "least validation loss"), strict=True)):
                values = [row[name] for row in rows]
                least[k] = min(least[k], *values)
                seconds = [row["seconds"] for row in rows]
                axis.loglog(seconds, values, color=color, lw=1, label=one["way"] if is_new else None)
                axis.set(xlabel="time (s)", ylabel=f"{name} (meV/atom)", ylim=(0.95 * least[k], 6 * least[k]))
                axis.yaxis.set_minor_formatter("{x:.0f}")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(required=True)
    running = tasks.add_parser("run")
    running.add_argument("lists", nargs="+", choices=tuple(LISTS))
    running.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    running.add_argument("--only", default="", help="ways whose names have a match of this regular expression")
    running.add_argument("--most-seconds", type=float, default=math.inf)
    running.add_argument("--n-threads", type=int, default=0)
    running.add_argument("--device", default="cpu")
    running.add_argument("--score-test", action="store_true")
    running.add_argument("--out", required=True)
    running.set_defaults(task=run)
    timed = tasks.add_parser("steps")
    timed.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    timed.add_argument("--n-threads", type=int, default=0)
    timed.add_argument("--members", type=int, nargs="+", default=[1, 8])
    timed.add_argument("--hidden", type=int, nargs="+", default=[32, 24])
    timed.add_argument("--profile", action="store_true")
    timed.set_defaults(task=steps)
    tables = tasks.add_parser("table")
    tables.add_argument("results", nargs="+")
    tables.add_argument("--marks", type=float, nargs="+", default=[10, 20, 40, 75, 150, 300, 500])
    tables.set_defaults(task=table)
    plots = tasks.add_parser("plot")
    plots.add_argument("results", nargs="+")
    plots.add_argument("--out", required=True)
    plots.set_defaults(task=plot)
    options = parser.parse_args()
    options.task(options)


if __name__ == "__main__":
    main()
