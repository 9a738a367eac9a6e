"""Errors of `pyfit-gpu fit` against the time that training may take, on structures that the fit never sees.

    python tests/benchmarks/fit_times.py --sets si sic mlearn --times 1m 5m 30m --n-threads 2 [--mlearn FOLDER]

Si and SiC are the sets of the examples: a quarter of every group is held out (the split of docs/accuracy.md); of mlearn
silicon it is the published test file. `--hidden` and `--training` replace what the fit would choose from the data;
`--steps` ends training after so many steps of all members, whatever the time: for a machine with other work.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from pyfit_gpu.commands.cli import main
from pyfit_gpu.commands.fit import command, stages
from pyfit_gpu.commands.frame_prediction import predict_frames
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.datasets.splits import classic_split
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import load_potentials, read_frames
from pyfit_gpu.models.energy_shift import evaluation_shift, shift_of_structures
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame

EXAMPLES = Path(__file__).parents[2] / "examples"
SETS = {"si": EXAMPLES / "data" / "si_dft.extxyz", "sic": EXAMPLES / "silicon_carbide" / "sic_dft.extxyz"}


def two_parts(name: str, mlearn: Path, seed: int) -> tuple[list[Frame], list[Frame]]:
    """Structures for the fit, and those that are held out."""
    if name == "mlearn":
        parts = [list(read_frames(mlearn / f"Si_{part}.extxyz")) for part in ("train", "test")]
        return parts[0], parts[1]
    frames = list(read_frames(SETS[name]))
    volumes = np.array([frame.volume / frame.n_atoms for frame in frames])
    groups = [frame.group for frame in frames]
    split = classic_split(groups, volumes, np.ones(len(frames), dtype=bool), 0.75, seed, pool=True)
    return [frames[row] for row in sorted(split.train)], [frames[row] for row in split.validation]


def errors(folder: Path, frames: Sequence[Frame]) -> dict[str, float]:
    """RMSE and MAE of the committee's energies, meV/atom, and forces, eV/Å."""
    model = load_potentials(sorted(folder.glob("fit.m*.nn.dat")))
    found = predict_frames(frames, model, Setup(torch.device("cpu")), derivatives=True)
    counts = torch.from_numpy(count_elements(frames, model.descriptor.elements))
    shifts = shift_of_structures(counts, evaluation_shift(model, None)).numpy()
    energies = np.array([frame.energy for frame in frames], dtype=float)
    sizes = np.array([frame.n_atoms for frame in frames])
    energy = 1000 * (found.energy - shifts - energies) / sizes
    assert found.forces is not None
    pairs = zip(found.forces, frames, strict=True)
    force = np.concatenate([(own - frame.forces).ravel() for own, frame in pairs if frame.forces is not None])
    return {
        f"{label} {kind}": float(value)
        for label, own in (("E", energy), ("F", force))
        for kind, value in (("RMSE", np.sqrt(np.mean(own**2))), ("MAE", np.mean(np.abs(own))))
    }


def one_fit(options: argparse.Namespace, name: str, limit: str, seed: int) -> str:
    inside, outside = two_parts(name, options.mlearn, options.split_seed)
    chosen: dict[str, Any] = {}

    def choose(*arguments: Any) -> dict[str, Any]:
        chosen.update(original(*arguments))
        if options.hidden:
            chosen["hidden"] = options.hidden
        if options.training is not None:
            chosen["training"] = shlex.split(options.training)
        return chosen

    original = command.choose
    with tempfile.TemporaryDirectory() as temporary:
        data, out = Path(temporary) / "data.extxyz", Path(temporary) / "out"
        with atomic_text(data) as file:
            write_extxyz(file, inside)
        words = ["fit", data, "--out", out, "--time", limit, "--members", options.members, "--seed", seed, "--quiet",
                 "--device", "cpu", "--n-threads", options.n_threads]  # fmt: skip
        started = time.monotonic()
        steps_patch = patch.object(stages, "STEPS", options.steps or stages.STEPS)
        with patch.object(command, "choose", choose), steps_patch:
            status = main([str(word) for word in words])
        seconds = time.monotonic() - started
        assert status == 0, f"fit ended with status {status}"
        found = errors(out, outside)
        steps = [len(path.read_text().splitlines()) - 1 for path in sorted(out.glob("fit.m*.loss.txt"))]
    cells = [f"{key} {value:.2f}" if key.startswith("E") else f"{key} {value:.4f}" for key, value in found.items()]
    how = shlex.join(chosen["training"]) or "LBFGS"
    layers = "-".join(map(str, chosen["hidden"]))
    shown = f"{min(steps)} to {max(steps)}"
    return f"{name} {limit} seed {seed}: {'  '.join(cells)}  ({layers}, {how}; steps {shown}; {seconds:.0f} s in all)"


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["si", "sic"], choices=("si", "sic", "mlearn"))
    parser.add_argument("--times", nargs="+", default=["1m", "5m", "30m"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[2])
    parser.add_argument("--split-seed", type=int, default=2)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, nargs="+")
    parser.add_argument("--training", metavar="OPTIONS", help="options of train in place of those chosen; '' for none")
    parser.add_argument("--steps", type=int, help="of training, at most")
    parser.add_argument("--mlearn", type=Path, default=Path("mlearn"), help="folder with Si_train and Si_test.extxyz")
    options = parser.parse_args()
    for name in options.sets:
        for limit in options.times:
            for seed in options.seeds:
                print(one_fit(options, name, limit, seed), flush=True)


if __name__ == "__main__":
    run()
