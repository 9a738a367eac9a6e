"""The verb `lammps`: what it prints and how it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyfit_gpu.commands.cli import main
from pyfit_gpu.commands.jobs import frames_of_set
from pyfit_gpu.commands.lammps import evenly_spread
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set, read_frames
from pyfit_gpu.interfaces.lammps import cache
from pyfit_gpu.interfaces.lammps.build import find_compiler
from pyfit_gpu.interfaces.lammps.installation import find_installation


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """A cache of its own, a LAMMPS and a compiler."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        find_compiler()
        return find_installation()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def small_source(tmp_path, monkeypatch):
    """A source that is compiled in no time, in place of the plugin's."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "empty.cpp").write_text("int nothing = 0;\n")
    monkeypatch.setattr(cache, "SOURCES", tmp_path / "source")


@pytest.mark.parametrize("words", [["lammps"], ["lammps", "--help"]])
def test_tasks_are_listed(words, capsys):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status == (0 if "--help" in words else 2)
    text = capsys.readouterr().out
    assert "usage: pyfit-gpu lammps" in text
    for task in ("build", "check", "export"):
        assert f"    {task} " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["build", "--compilr", "x"], "unknown option --compilr (did you mean --compiler?)"),
        (["export", "si.nn.dat"], "the following arguments are required: --out"),
    ],
)
def test_usage(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["lammps", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_build_says_where_it_is(ready, small_source, capsys):
    assert main(["lammps", "build"]) == 0
    text = capsys.readouterr().out
    assert f"LAMMPS        {ready.version}" in text
    plugin = next(line.split()[1] for line in text.splitlines() if line.startswith("plugin "))
    assert Path(plugin).is_file()
    assert main(["lammps", "build", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{plugin}\n"
    assert main(["lammps", "build"]) == 0
    assert "(built before)" in capsys.readouterr().out


def test_build_a_file(ready, small_source, tmp_path, capsys):
    assert main(["lammps", "build", "--out", str(tmp_path / "myplugin.so"), "--flags=-O1 -g"]) == 0
    text = capsys.readouterr().out
    assert f"plugin load {tmp_path / 'myplugin.so'}" in text
    assert "-march=native -O1 -g" in text


def test_missing_parts(ready, tmp_path, capsys):
    assert main(["lammps", "check"]) == 2
    assert "(pyfit-gpu lammps build compiles it)" in capsys.readouterr().err
    assert main(["lammps", "build", "--lammps", str(tmp_path)]) == 2
    assert "expected LAMMPS: a source tree" in capsys.readouterr().err


def test_export_needs_no_compiler_where_the_cache_has_a_plugin(
    ready, own_data, tmp_path, small_source, capsys, monkeypatch
):
    assert main(["lammps", "build", "--quiet"]) == 0
    monkeypatch.setattr("pyfit_gpu.commands.lammps.build_plugin", None)
    assert main(["lammps", "export", str(own_data / "two_elements.nn.dat"), "--out", str(tmp_path / "out")]) == 1
    assert "Plugin symbol lookup failure" in capsys.readouterr().err  # the plugin that was made in no time


def test_untrained_potential_is_not_exported(example_data, tmp_path, capsys):
    assert main(["lammps", "export", str(example_data / "si.start.nn.dat"), "--out", str(tmp_path / "out")]) == 2
    assert "expected a trained potential" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(ready, own_data, tmp_path, small_source, capsys):
    (tmp_path / "in.pyfit").write_text("mine")
    assert main(["lammps", "export", str(own_data / "two_elements.nn.dat"), "--out", str(tmp_path)]) == 2
    assert "in.pyfit: exists already (give --overwrite to replace it)" in capsys.readouterr().err


def test_structures_of_a_set(own_data, tmp_path, capsys):
    """A training set gives the structures that its files had."""
    structures, potential = own_data / "two_elements.extxyz", own_data / "two_elements.nn.dat"
    out = tmp_path / "set.h5"
    assert main(["prepare", str(structures), "--potential", str(potential), "--out", str(out), "--quiet"]) == 0
    expected = list(read_frames(structures))
    rows = [0, 3, len(expected) - 1]
    found = frames_of_set(load_training_set(out, lazy=True), rows, "set.h5")
    for row, frame in zip(rows, found, strict=True):
        assert frame.source == f"set.h5, structure {row + 1}"
        for name in ("positions", "cell", "pbc", "atomic_numbers"):
            np.testing.assert_array_equal(getattr(frame, name), getattr(expected[row], name))
    text = tmp_path / "set.dat"
    assert main(["convert", str(out), str(text), "--quiet"]) == 0
    with pytest.raises(InputError, match="expected a training set with positions"):
        frames_of_set(load_training_set(text), [0], "set.dat")


def test_evenly_spread():
    assert evenly_spread(range(5), 9) == [0, 1, 2, 3, 4]
    assert evenly_spread(range(101), 3) == [0, 50, 100]
    chosen = evenly_spread(range(1000), 100)
    assert len(set(chosen)) == 100
    assert chosen[0] == 0
