"""Accuracy of many settings, each on several splits with several random starts: lists of runs in, JSON lines out.

    python tests/benchmarks/accuracy.py run LIST.json... --data FOLDER... --out RESULTS.jsonl
        [--device cuda] [--processes 8] [--threads 1] [--max-seconds 500] [--score-test]
    python tests/benchmarks/accuracy.py table RESULTS.jsonl... [--against NAME]

A list is {"base": {..}, "runs": [{"name": .., ..}, ..]}: a run has the keys of `DEFAULTS`, the list's base changes them
for all of its runs, and of "descriptor" only the keys that are named. A key "splits" has the seeds of splits, "members"
the number of random starts of each, which are the members of one fit. A set of `DATA` is read by its file's name
from the folders given. Test structures are scored with --score-test alone.

A line of the results is one member on one split: its errors after a sixteenth, an eighth, .., all of the steps
("marks", root-mean-square) and mean absolute errors at the end, for training and validation.
Energies in meV/atom, forces in eV/Å, stress in GPa; seconds are those of the fit, of all members together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.units import GPa
from mixed_blocks import MixedBlocks

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks, count_parameters

Run = dict[str, Any]

# File with the structures that train and validate, file to test on, elements, energy shift (None: fitted).
DATA: dict[str, tuple[str, str | None, tuple[str, ...], float | None]] = {
    "mlearn_si": ("Si_train.extxyz", "Si_test.extxyz", ("Si",), None),
    "nist": ("silicon_nist.poscar.dat", None, ("Si",), 0.795023),
    "si": ("si_dft.extxyz", None, ("Si",), None),
    "sic": ("sic_dft.extxyz", None, ("Si", "C"), None),
    "tersoff_sic": ("tersoff_sic.extxyz", None, ("Si", "C"), None),
    "tersoff_sigec": ("tersoff_sigec.extxyz", None, ("Si", "Ge", "C"), None),
}
DEFAULTS: Run = {
    "name": "",
    "data": "mlearn_si",
    "descriptor": {
        "gi_mode": 5,
        "cutoff": 5.0,
        "cutoff_width": 1.0,
        "gaussian_width": 0.5,
        "legendre_orders": [0, 1, 2, 3, 4, 6],
        "cross_terms": 0,
        "triples": [],
        "n_centers": 8,
        "first_center": 1.6,
        "cross_blocks": "all",  # of several elements: see mixed_blocks.py
        "triple_blocks": "all",
        "last_center": None,  # None: 0.4 cutoff widths before the cutoff
    },
    "max_random": 0.3,
    "hidden": [32, 24],  # one of them may be null: chosen so that a network has about `parameters` parameters
    "parameters": 2385,
    "force_weight": 0.01,  # Å^2; {"scale": c}: c (spread of the energies per atom / RMS force)^2
    "stress_weight": 0.0,
    "l2": 1e-4,
    "conditioning": None,  # None: the default of `FitSettings`
    "steps": 160,
    "max_time": 0.0,  # s, for all members together
    "optimizer": {},  # of `LBFGSSettings`
    "keep": "last",
    "dtype": "float64",
    "members": 1,
    "seed": 1,
    "splits": [2],
    "train_fraction": 0.66,
}
N_MARKS = 5  # steps / 16, / 8, / 4, / 2, / 1


def merged(*parts: Mapping[str, Any]) -> Run:
    """Settings of which later ones win, descriptors key by key."""
    run: Run = {"descriptor": {}}
    for part in parts:
        descriptor = {**run["descriptor"], **part.get("descriptor", {})}
        run = {**run, **part, "descriptor": descriptor}
    unknown = sorted((set(run) - set(DEFAULTS)) | (set(run["descriptor"]) - set(DEFAULTS["descriptor"])))
    if unknown:
        raise SystemExit(f"{run.get('name')}: unknown keys {', '.join(unknown)}")
    return run


def load_list(path: Path) -> list[Run]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [merged(DEFAULTS, content.get("base", {}), run) for run in content["runs"]]


def make_potential(run: Run, elements: tuple[str, ...]) -> pf.Potential:
    """A potential with the settings of a run; its parameters are drawn by `fit`."""
    given = dict(run["descriptor"])
    first, last, number = (given.pop(name) for name in ("first_center", "last_center", "n_centers"))
    last = given["cutoff"] - 0.4 * given["cutoff_width"] if last is None else last
    kinds = {name: given.pop(name) for name in ("cross_blocks", "triple_blocks")}
    is_mixed = set(kinds.values()) != {"all"}
    make = partial(MixedBlocks, **kinds) if is_mixed else pf.LocalStructureParameters
    descriptor = make(
        elements=elements,
        shift=0.0,
        legendre_orders=tuple(given.pop("legendre_orders")),
        triples=tuple(tuple(triple) for triple in given.pop("triples")),
        gaussian_centers=tuple(np.round(np.linspace(first, last, number), 4).tolist()),
        **given,
    )
    layers = layer_sizes(descriptor.n_features, run["hidden"], run["parameters"])
    networks = ElementNetworks.random(layers, run["max_random"], 1, n_elements=len(elements), activation=1)
    shift = torch.full((len(elements),), torch.nan, dtype=torch.float64)
    return pf.Potential(descriptor, networks, (1.0,) * len(elements), run["max_random"], False, (0.0,) * 8, shift)


def layer_sizes(n_features: int, hidden: list[int | None], parameters: int) -> tuple[int, ...]:
    """Sizes of all layers, the open hidden one such that the parameters come nearest to their number."""
    choices = [tuple(size or choice for size in hidden) for choice in range(1, 200)]
    return min(
        ((n_features, *sizes, 1) for sizes in choices), key=lambda layers: abs(count_parameters(layers) - parameters)
    )


@lru_cache(maxsize=2)
def structures_of(name: str, folders: tuple[str, ...]) -> pf.Structures:
    found = [path for folder in folders if (path := Path(folder) / name).exists()]
    if not found:
        raise FileNotFoundError(f"{name}: in none of {', '.join(folders)}")
    return pf.load_structures(found[0])


def fitted_shift(train: pf.TrainingSet) -> tuple[float, ...]:
    """(S,) eV per atom: least squares of the training energies, of least norm."""
    counts = torch.stack([train.count_species(k) for k in range(train.descriptor.n_elements)], dim=1).cpu().double()
    sizes = train.sizes.cpu().double()
    composition, per_atom = (counts / sizes[:, None]).numpy(), (train.energy.cpu() / sizes).numpy()
    return tuple(np.linalg.lstsq(composition, -per_atom, rcond=1e-10)[0].round(6).tolist())


def force_weight_of(run: Run, train: pf.TrainingSet) -> float:
    """Å^2, as given or from the scales of the labels."""
    given = run["force_weight"]
    if not isinstance(given, dict):
        return float(given)
    per_atom = train.energy_used / train.sizes
    rms = train.forces[~train.forces.isnan()].square().mean().sqrt()
    return float(given["scale"] * (per_atom.std() / rms) ** 2)


class Marks:
    """Errors of every member when it has taken so many steps, with evaluations and seconds until then."""

    def __init__(self, steps: int) -> None:
        self.interval = max(1, steps // 2 ** (N_MARKS - 1))
        self.steps = [self.interval * 2**power for power in range(N_MARKS - 1)] + [steps]
        self.rows: dict[int, pf.StepRecord] = {}
        self.found: dict[int, list[dict[str, Any]]] = {}
        self.started = self.paused = 0.0

    def __call__(self, member: int) -> list[Marks]:
        return [self]

    def on_start(self) -> None:
        self.started = self.started or time.perf_counter()

    def on_step(self, row: pf.StepRecord) -> None:
        self.rows[row.member] = row

    def checkpoint(self, state: Any, last: bool) -> None:
        """Note the rows of this step; taking the state does not count in the time."""
        due = [k for k, row in self.rows.items() if row.step in self.steps or last]
        if not due:
            return
        now = time.perf_counter()
        members = state().members
        for k in due:
            row, history = self.rows[k], members[k]["history"]
            marks = self.found.setdefault(k, [])
            if not marks or marks[-1]["step"] < row.step:
                marks.append({
                    "step": row.step, "evaluations": history["n_evaluations"],
                    "seconds": round(now - self.started - self.paused, 3),
                    "train": rounded(row.errors), "validation": rounded(row.validation_errors),
                })  # fmt: skip
        self.paused += time.perf_counter() - now


UNITS = {"energy": 1e3, "forces": 1.0, "stress": 1 / GPa}


def rounded(errors: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if errors is None else {name: round(UNITS[name] * value, 5) for name, value in errors.items()}


@torch.no_grad()
def scores(potential: pf.Potential, part: pf.TrainingSet) -> dict[str, Any]:
    """Errors of one member on a set, RMSE and MAE, with the energy's by group."""
    has_forces = bool(part.has_forces.any())
    shift = potential.energy_shift.nan_to_num()
    found = pf.predict(potential, part.structures(), derivatives=has_forces)
    counts = torch.stack([part.count_species(k) for k in range(len(shift))], dim=1).double()
    differences = {"energy": (found.energy - counts @ shift.to(counts.device) - part.energy) / part.sizes}
    if has_forces:
        differences |= {"forces": found.forces - part.forces, "stress": found.stress - part.stress}
    result: dict[str, Any] = {}
    for name, difference in differences.items():
        known = difference[~difference.isnan()] * UNITS[name]
        if len(known):
            result[name] = {"rmse": float(known.square().mean().sqrt()), "mae": float(known.abs().mean())}
    squares: dict[str, list[float]] = {}
    for group, error in zip(part.groups, differences["energy"].tolist(), strict=True):
        squares.setdefault(group, []).append((1e3 * error) ** 2)
    result["groups"] = {group: (statistics.mean(values)) ** 0.5 for group, values in sorted(squares.items())}
    return json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 5))


def settings_of(run: Run, train: pf.TrainingSet, marks: Marks) -> pf.FitSettings:
    has_forces = bool(train.has_forces.any())
    more = {} if run["conditioning"] is None else {"conditioning": run["conditioning"]}
    missing = set(more) - {one.name for one in fields(pf.FitSettings)}
    if missing and run["conditioning"] != "none":
        raise ValueError(f"FitSettings lacks {', '.join(missing)}")
    return pf.FitSettings(
        steps=run["steps"],
        optimizer=pf.LBFGSSettings(**run["optimizer"]),
        l2=run["l2"],
        force_weight=force_weight_of(run, train) if has_forces else 0.0,
        stress_weight=run["stress_weight"] if bool(train.has_stress.any()) else 0.0,
        validation_interval=marks.interval,
        max_time=run["max_time"],
        keep=run["keep"],
        seed=run["seed"],
        **({} if missing else more),
    )


def results_of(run: Run, split: int, folders: tuple[str, ...], device: str, *, test: bool) -> Iterator[dict[str, Any]]:
    """Train all members of one run on one split; a result for each."""
    file, test_file, elements, shift = DATA[run["data"]]
    potential = make_potential(run, elements)
    began = time.perf_counter()
    whole = pf.build_training_set(structures_of(file, folders).to(device), potential)
    whole = whole.to(device, getattr(torch, run["dtype"]))
    train, validation = whole.split(run["train_fraction"], split) if run["train_fraction"] < 1 else (whole, None)
    shifts = fitted_shift(train) if shift is None else (shift,) * len(elements)
    train = replace(train, energy_shift=shifts)
    validation = validation and replace(validation, energy_shift=shifts)
    prepared = time.perf_counter() - began
    marks = Marks(run["steps"])
    settings = settings_of(run, train, marks)
    potential = potential.to(device, getattr(torch, run["dtype"]))
    history = pf.fit(
        potential, train, validation, members=run["members"], settings=settings, observers=marks,
        checkpoint=marks.checkpoint,
    )  # fmt: skip
    parts = {"train": train, "validation": validation}
    if test and test_file:
        tested = pf.build_training_set(structures_of(test_file, folders).to(device), potential)
        parts["test"] = replace(tested, energy_shift=shifts)
    for k, member in enumerate(history.members):
        own = history.potential.member(k).to(device, torch.float64)
        yield {
            **run, "split": split, "member": k, "device": describe(device), "force_weight": settings.force_weight,
            "n_inputs": potential.descriptor.n_features, "n_parameters": potential.networks.n_parameters,
            "layers": potential.networks.layer_sizes, "n_train": len(train), "n_train_atoms": train.n_atoms,
            "n_validation": len(validation or ()), "prepared": round(prepared, 2), "status": member.status,
            "end": history.end, "evaluations": member.n_evaluations, "marks": marks.found.get(k, []),
            "final": {name: scores(own, part) for name, part in parts.items() if part is not None and len(part)},
        }  # fmt: skip


def describe(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"


def carry_out(job: tuple[Run, int, tuple[str, ...], str, bool, float, int]) -> list[dict[str, Any]]:
    """One run on one split, in a process of its own; a fault becomes a result, so that the others go on."""
    run, split, folders, device, test, deadline, threads = job
    torch.set_num_threads(threads)
    left = deadline - time.time()
    if left < 5.0:
        return [{**run, "split": split, "fault": "not begun: no time left"}]
    run = {**run, "max_time": min(run["max_time"] or left, left)}
    try:
        return list(results_of(run, split, folders, device, test=test))
    except Exception as error:
        return [{**run, "split": split, "fault": f"{type(error).__name__}: {error}"}]


def run_lists(options: argparse.Namespace) -> None:
    deadline = time.time() + options.max_seconds
    folders = tuple(map(str, options.data))
    runs = [run for path in options.lists for run in load_list(path)]
    # The first split of every run comes before the second of any: a lack of time costs splits, not runs.
    jobs = [
        ({**run, "members": options.members or run["members"], "steps": options.steps or run["steps"]}, split, folders,
         options.device, options.score_test, deadline, options.threads)
        for place in range(max(len(options.splits or run["splits"]) for run in runs))
        for run in runs if any(part in run["name"] for part in options.only)
        for split in (options.splits or run["splits"])[place : place + 1]
    ]  # fmt: skip
    print(f"{len(jobs)} jobs, {options.processes} processes, {options.device}", flush=True)
    began = time.time()
    context = multiprocessing.get_context("spawn")
    with open(options.out, "a", encoding="utf-8") as file, ProcessPoolExecutor(options.processes, context) as pool:
        for done in as_completed([pool.submit(carry_out, job) for job in jobs]):
            for result in done.result():
                file.write(json.dumps(result) + "\n")
                file.flush()
                print(f"{time.time() - began:7.1f} s  {brief(result)}", flush=True)


def brief(result: dict[str, Any]) -> str:
    if "fault" in result:
        return f"{result['data']} {result['name']} split {result['split']}: {result['fault']}"
    last = result["marks"][-1] if result["marks"] else {}
    return f"{result['data']} {result['name']} split {result['split']} member {result['member']}: {json.dumps(last)}"


def print_table(options: argparse.Namespace) -> None:
    """One line per run: means over splits and members, and in brackets the spread of the members within a split."""
    results: dict[str, list[dict[str, Any]]] = {}
    for path in options.results:
        for line in path.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            if "fault" not in result:
                results.setdefault(f"{result['data']:13s} {result['name']}", []).append(result)
            elif options.faults:
                print(brief(result), file=sys.stderr)
    if options.against:
        print_ratios(results, options.against)
        return
    print("inputs, parameters, members x splits; then at each mark: evaluations, seconds; training energy, forces; "
          "validation energy, forces (RMSE); at the end validation MAE of both, stress RMSE")  # fmt: skip
    width = max(map(len, results), default=0)
    for name, members in results.items():
        own = members[0]
        print(f"{name:{width}s} {own['n_inputs']:4d} {own['n_parameters']:5d} {len(members):2d}  "
              + " | ".join(mark_cell(members, mark) for mark in options.marks) + "  " + end_cell(members))  # fmt: skip


def print_ratios(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    """Validation errors at the end beside those of one run, on the same set and splits; the time of an evaluation."""
    print(f"beside {name!r}: validation energy RMSE, MAE, forces RMSE, MAE (geometric means over splits of means over "
          "members); seconds per evaluation; number of splits")  # fmt: skip
    by_split: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    for member in (one for members in results.values() for one in members):
        splits = by_split.setdefault((member["name"], member["data"]), {})
        splits.setdefault(member["split"], []).append(member)
    width = max(len(own) for own, _ in by_split)
    for (own, data), splits in sorted(by_split.items(), key=lambda item: item[0]):
        base = by_split.get((name, data), {})
        ratios = [
            [one / other for one, other in zip(errors_of(splits[k]), errors_of(base[k]), strict=True)]
            for k in splits if k in base
        ]  # fmt: skip
        if ratios:
            means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
            cells = [f"{means[k]:6.3f}" if k < len(means) - 1 else "" for k in range(4)]
            print(f"{own:{width}s} {data:13s} " + " ".join(f"{cell:6s}" for cell in cells), f"{means[-1]:7.2f}",
                  len(ratios))  # fmt: skip


def errors_of(members: list[dict[str, Any]]) -> list[float]:
    """Means over members: validation RMSE and MAE of energies (and forces), and seconds per evaluation."""
    final = [one["final"]["validation"] for one in members]
    labels = [label for label in ("energy", "forces") if label in final[0]]
    errors = [mean(one[label][kind] for one in final) for label in labels for kind in ("rmse", "mae")]
    seconds = mean(one["marks"][-1]["seconds"] for one in members)
    return [*errors, seconds / mean(one["evaluations"] for one in members)]


def mark_cell(members: list[dict[str, Any]], mark: int) -> str:
    found = [one["marks"][mark] for one in members if -len(one["marks"]) <= mark < len(one["marks"])]
    if not found:
        return "(not reached)"
    splits: dict[int, list[float]] = {}
    for one, member in zip(found, members, strict=False):
        error = (one["validation"] or one["train"]).get("forces")
        splits.setdefault(member["split"], []).append(0.0 if error is None else error)
    spread = statistics.mean(statistics.pstdev(values) for values in splits.values())
    cells = [f"{mean(one['evaluations'] for one in found):5.0f} {mean(one['seconds'] for one in found):6.1f}s"]
    for part in ("train", "validation"):
        known = [one[part] for one in found if one[part]]
        if known:
            energy, forces = mean(one["energy"] for one in known), mean(one.get("forces", 0.0) for one in known)
            cells.append(f"{energy:6.2f} {forces:.4f}")
    return "  ".join(cells) + f" ({spread:.4f})"


def end_cell(members: list[dict[str, Any]]) -> str:
    cells = []
    for part in ("validation", "test"):
        known = [one["final"][part] for one in members if part in one["final"]]
        if not known:
            continue
        cells.append(f"{part} MAE {mean(one['energy']['mae'] for one in known):.2f}")
        if "forces" in known[0]:
            cells.append(f"{mean(one['forces']['mae'] for one in known):.4f}")
        if "stress" in known[0]:
            cells.append(f"stress {mean(one['stress']['rmse'] for one in known):.3f}")
        if part == "test":
            cells.append(f"RMSE {mean(one['energy']['rmse'] for one in known):.2f}")
            cells.append(f"{mean(one.get('forces', {'rmse': 0})['rmse'] for one in known):.4f}")
    return " ".join(cells)


def mean(values: Iterator[float]) -> float:
    return statistics.mean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    run = verbs.add_parser("run")
    run.set_defaults(verb=run_lists)
    run.add_argument("lists", nargs="+", type=Path)
    run.add_argument("--data", nargs="+", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--device", default="cpu")
    run.add_argument("--processes", type=int, default=1)
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--max-seconds", type=float, default=1e6)
    run.add_argument("--score-test", action="store_true")
    run.add_argument("--only", nargs="+", default=[""], help="parts of the names of runs")
    run.add_argument("--steps", type=int, help="instead of the runs' own, for a trial")
    run.add_argument("--members", type=int)
    run.add_argument("--splits", type=int, nargs="+")
    table = verbs.add_parser("table")
    table.set_defaults(verb=print_table)
    table.add_argument("results", nargs="+", type=Path)
    table.add_argument("--marks", type=int, nargs="+", default=[-3, -2, -1], help="which of the marks, -1 the last")
    table.add_argument("--against", metavar="NAME", help="ratios to the run of this name")
    table.add_argument("--faults", action="store_true")
    options = parser.parse_args()
    options.verb(options)


if __name__ == "__main__":
    main()
