"""Names of the files of a fit."""

from __future__ import annotations

from pyfit_gpu.commands.fit.layout import Layout


def test_only_the_ending_of_a_name_is_replaced() -> None:
    layout = Layout("old.nn.dat.d", 2)
    assert layout.trained.run_file == "old.nn.dat.d/fit.run.h5"
    names = ("fit", "fit.m000", "fit.m001")
    assert layout.uncertainties == [f"old.nn.dat.d/{name}.uncertainty.txt" for name in names]
