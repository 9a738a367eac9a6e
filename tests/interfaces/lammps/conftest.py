"""Fixtures of the tests with LAMMPS. Where something is missing they are skipped, but not in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest
from lammps_runs import Toolchain


def missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: CI has it")
    pytest.skip(what)


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        missing("there is no C++ compiler (g++)")
    return Toolchain(compiler)
