"""The smallest kernel, interpreted."""

from __future__ import annotations

import interpreted  # noqa: F401, first
import pytest
import torch

from pyfit_gpu import fused_trial


def test_it_doubles() -> None:
    fused_trial.run(torch.device("cpu"))


def test_it_notices_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def __getitem__(self, grid: object) -> object:
            return lambda *arguments, **keywords: None

    monkeypatch.setattr(fused_trial, "_double", Nothing())
    with pytest.raises(RuntimeError, match=r"gave \[0.0, 1.0, 2.0\]"):
        fused_trial.run(torch.device("cpu"))
