"""Programs that some tests need."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str, required_by: str) -> NoReturn:
    """Skip, or fail where the tests must not do without: where this variable is set, as in .ci/run."""
    if os.environ.get(required_by):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
