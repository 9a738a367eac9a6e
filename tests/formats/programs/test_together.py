"""One set from the data of several programs, as somebody has who changed programs."""

from __future__ import annotations

from pathlib import Path

import program_outputs as outputs
import program_samples as samples
import pytest
import torch
from sample_sets import make_potential

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.prepare import prepare
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.read_options import ReadOptions


def test_one_set_from_eight_programs(tmp_path: Path) -> None:
    texts = {
        "qe.pwo": outputs.ESPRESSO,
        "aims.out": outputs.AIMS,
        "gpaw.txt": outputs.GPAW,
        "si.castep": outputs.CASTEP,
        "orca.out": outputs.ORCA,
        "input.data": samples.RUNNER,
        "train.cfg": samples.MTP,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    samples.write_deepmd(tmp_path / "deepmd")
    save_potential(make_potential(), tmp_path / "si.nn.dat")
    files = [str(tmp_path / name) for name in (*texts, "deepmd")]
    potential, out = str(tmp_path / "si.nn.dat"), str(tmp_path / "all.h5")
    setup = Setup(torch.device("cpu"), quiet=True)
    prepare(files, potential=potential, out=out, setup=setup, reading=ReadOptions(units="eV,Ang"))
    made = load_training_set(out)
    expected = [-15 * 13.605693, -15728.181, -9.25, -340.75, -578.5 * 27.211386, *[samples.ENERGY] * 3]
    assert made.energy.tolist() == pytest.approx(expected, rel=1e-6)
    assert made.groups == ("qe", "aims", "gpaw", "si", "orca", "input", "train", "deepmd")
