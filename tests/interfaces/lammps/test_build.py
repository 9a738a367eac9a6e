"""Building: what is compiled anew and what is not, two at once, and what is said where something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.interfaces.lammps import build as build_module
from pyfit_gpu.interfaces.lammps import cache
from pyfit_gpu.interfaces.lammps.build import build_plugin, find_compiler
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.versions import Version

SOURCE = """
#include "number.h"
#ifndef LAMMPS_SMALLBIG
#error "sizes"
#endif
extern "C" const char *version() { return PYFIT_LAMMPS_VERSION; }
extern "C" int number() { return NUMBER; }
"""


@pytest.fixture
def small_source(tmp_path, monkeypatch):
    """A source that is compiled in no time, in place of the plugin's."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "all.cpp").write_text(SOURCE)
    (folder / "number.h").write_text("#define NUMBER 1\n")
    monkeypatch.setattr(cache, "SOURCES", folder)
    return folder


@pytest.fixture
def some_lammps(tmp_path):
    return Installation(
        name="made",
        version=Version("22 Jul 2025", "Update 4"),
        include=(tmp_path,),
        sizes="LAMMPS_SMALLBIG",
        program=None,
        command=None,
        launcher=None,
        libraries=None,
    )


def with_version(lammps, *version):
    from dataclasses import replace

    return replace(lammps, version=Version(*version))


def call(plugin: Path, function: str, kind: str) -> str:
    """Result of a function of a library, in a process of its own."""
    code = f"import ctypes; f = ctypes.CDLL({str(plugin)!r}).{function}; f.restype = ctypes.{kind}; print(f())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_second_call_takes_the_first_ones(small_source, some_lammps, compiler, own_cache, monkeypatch):
    first = build_plugin(some_lammps)
    assert first.is_new
    assert first.plugin.parent.parent == own_cache
    assert first.plugin.name.endswith("plugin.so")
    assert call(first.plugin, "version", "c_char_p") == "b'22 Jul 2025'"  # without the update, as lmp->version has it
    monkeypatch.setattr(build_module, "_compile", None)
    second = build_plugin(some_lammps)
    assert not second.is_new
    assert second.plugin == first.plugin
    assert {path.name for path in first.plugin.parent.iterdir()} == {"pyfitplugin.so", "build.json", "lock"}


def test_what_was_asked_for_last_is_loaded(small_source, some_lammps, compiler, own_cache):
    first, second = build_plugin(some_lammps), build_plugin(some_lammps, flags=["-O0"])
    for age, build in ((20, first), (10, second)):
        record = build.plugin.with_name("build.json")
        os.utime(record, (record.stat().st_mtime - age,) * 2)
    assert cache.find_build(str(some_lammps.version)) == (second.record, second.plugin)
    assert not build_plugin(some_lammps).is_new
    assert cache.find_build(str(some_lammps.version)) == (first.record, first.plugin)


def test_everything_that_decides_makes_another(small_source, some_lammps, compiler, own_cache, monkeypatch):
    builds = [build_plugin(some_lammps)]
    builds.append(build_plugin(with_version(some_lammps, "22 Jul 2025", "Update 5")))
    builds.append(build_plugin(some_lammps, flags=["-O1"]))
    (small_source / "number.h").write_text("#define NUMBER 2\n")
    builds.append(build_plugin(some_lammps))
    assert call(builds[-1].plugin, "number", "c_int") == "2"
    monkeypatch.setattr(build_module, "hash_processor", lambda: "another node")
    builds.append(build_plugin(some_lammps))
    assert all(one.is_new for one in builds)
    assert len({one.plugin for one in builds}) == len(builds)


def test_two_at_once(small_source, some_lammps, compiler, own_cache):
    with ThreadPoolExecutor(4) as pool:
        builds = list(pool.map(lambda _: build_plugin(some_lammps), range(4)))
    assert sum(one.is_new for one in builds) == 1
    assert len({one.plugin for one in builds}) == 1


def test_a_build_that_was_killed_is_made_again(small_source, some_lammps, compiler, own_cache):
    plugin = build_plugin(some_lammps).plugin
    plugin.with_name("build.json").write_text("{")
    assert build_plugin(some_lammps).is_new
    plugin.unlink()
    assert build_plugin(some_lammps).is_new


def test_errors_of_the_compiler(small_source, some_lammps, compiler, own_cache):
    (small_source / "all.cpp").write_text("#include <mpi_of_nowhere.h>\n")
    with pytest.raises(Failure, match=r"(?s)was not compiled:\n.*all.cpp:1.*mpi_of_nowhere.h"):
        build_plugin(some_lammps)
    (small_source / "all.cpp").write_text("#include <none/mpi.h>\n")
    with pytest.raises(Failure, match="load its module, or take its compiler"):
        build_plugin(some_lammps)
    assert not list(own_cache.rglob("*.so"))
    assert not list(own_cache.rglob("*.partial"))


def test_no_compiler(some_lammps, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"found none of g\+\+, .*apt install g\+\+.*gcc-c\+\+.*conda install gxx"):
        build_plugin(some_lammps)
    monkeypatch.setenv("CXX", "nonsense -m64")
    with pytest.raises(InputError, match=r"found no program 'nonsense -m64' \(variable CXX\)"):
        find_compiler()
    with pytest.raises(InputError, match=r"found no program 'other'$"):
        find_compiler("other")


def test_compiler_of_the_environment(compiler, monkeypatch):
    monkeypatch.setenv("CXX", f"{compiler[0]} -m64")
    assert find_compiler() == (compiler[0], "-m64")
    assert find_compiler(compiler[0]) == (compiler[0],)


def test_a_file_instead_of_the_cache(small_source, some_lammps, compiler, own_cache, tmp_path):
    out = tmp_path / "node.plugin.so"
    assert build_plugin(some_lammps, out=out).plugin == out
    assert call(out, "number", "c_int") == "1"
    assert not own_cache.exists()
    with pytest.raises(InputError, match=r"expected a name that ends in plugin\.so"):
        build_plugin(some_lammps, out=tmp_path / "node.so")
    with pytest.raises(InputError, match=r"the folder .* does not exist"):
        build_plugin(some_lammps, out=tmp_path / "none" / "plugin.so")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_cache_that_cannot_be_written(small_source, some_lammps, compiler, own_cache, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"cannot write: Permission denied .*XDG_CACHE_HOME"):
            build_plugin(some_lammps)
    finally:
        tmp_path.chmod(0o700)


def test_cache_that_is_no_folder(small_source, some_lammps, compiler, own_cache, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"cannot write: Not a directory .*XDG_CACHE_HOME"):
        build_plugin(some_lammps)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.cache_folder() == tmp_path / ".cache" / "pyfit-gpu" / "lammps"


def test_the_plugin_compiles(plugin):
    assert plugin.stat().st_size > 10_000
