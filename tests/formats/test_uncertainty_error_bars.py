"""The section `error-bars` of uncertainty files: the same bits again, and every fault with file and line."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from sample_sets import make_potential

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_uncertainty_of
from pyfit_gpu.formats.uncertainty_error_bars import section_bytes
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, save_uncertainty
from pyfit_gpu.models.error_bars import Calibration, ErrorBars
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty


def make_bars(n_parameters: int) -> ErrorBars:
    root = torch.randn(n_parameters, n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    calibrations = {"energy": Calibration(1 / 3, 17), "forces": Calibration(2e-7, 0)}
    return ErrorBars((root * 10 ** (3 * root)).tril(), calibrations, (1e-7 / 3,), 2e-9 / 7, 4.2)


def make_uncertainty(potential: Potential) -> Uncertainty:
    n_elements, n_inputs = potential.descriptor.n_elements, potential.descriptor.n_features
    grade = ExtrapolationGrade(
        scale=torch.ones(n_elements, n_inputs, dtype=torch.float64),
        element=torch.arange(n_elements),
        n_atoms=torch.full((n_elements,), 9),
        centers=torch.zeros(n_elements, n_inputs, dtype=torch.float64),
        weight=torch.ones(n_elements, dtype=torch.float64),
        directions=torch.zeros(n_elements, 1, n_inputs, dtype=torch.float64),
    )
    n_parameters = n_elements * (potential.networks.layer_sizes[-2] + 1)
    return Uncertainty.of(potential, grade, make_bars(n_parameters))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "fit.uncertainty.txt"
    save_uncertainty(make_uncertainty(make_potential(("Si", "C"))), path)
    return path


def test_round_trip(written: Path) -> None:
    potential = make_potential(("Si", "C"))
    expected, found = make_uncertainty(potential).error_bars, load_uncertainty(written)
    found.check(potential)
    assert expected is not None
    assert found.error_bars is not None
    assert torch.equal(found.error_bars.root, expected.root)
    assert found.error_bars.calibrations == expected.calibrations
    for name in ("penalties", "noise", "n_effective"):
        assert getattr(found.error_bars, name) == getattr(expected, name)
    assert [one.is_calibrated for one in found.error_bars.calibrations.values()] == [True, False]


def test_a_file_without_error_bars(tmp_path: Path) -> None:
    whole = make_uncertainty(make_potential())
    path = tmp_path / "fit.uncertainty.txt"
    save_uncertainty(Uncertainty(whole.checksum, whole.elements, whole.grade), path)
    assert load_uncertainty(path).error_bars is None


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


FAULTS = {
    "form": (replaced("form last-layer", "form whole"), "expected 'form' and last-layer or all-parameters"),
    "penalty of zero": (replaced("penalty ", "penalty -"), "expected 'penalty' and 1 number above 0"),
    "noise": (replaced("noise ", "noise x"), "expected 1 number"),
    "another label": (replaced("label forces", "label charges"), "expected 'label' and forces, a factor >= 0"),
    "negative factor": (replaced("label energy 0", "label energy -0"), "expected 'label' and energy, a factor >= 0"),
    "no number of values": (replaced(" 17\n", " 1.5\n"), "expected 'label' and energy, a factor >= 0"),
    "too many parameters": (replaced("parameters 10", "parameters 100001"), "from 1 to 100000"),
    "another number of them": (replaced("parameters 10", "parameters 11"), "expected 'row' and 11 numbers"),
    "a row too short": (replaced("parameters 10\nrow ", "parameters 10\nrow 1 "), "expected 1 number"),
    "NaN": (lambda text: text.replace("\nrow ", "\nrow nan\nrow ", 1), "expected 1 number"),
    "twice": (
        lambda text: text[: text.rindex("end ")] + text[text.index("begin error-bars") :],
        "expected one section of this name",
    ),
    "cut off": (lambda text: text[: text.index("end error-bars")], "error-bars"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(written: Path, name: str) -> None:
    change, message = FAULTS[name]
    written.write_text(change(written.read_text()))
    with pytest.raises(InputError) as error:
        load_uncertainty(written)
    assert message in str(error.value)
    assert str(written) in str(error.value)


def test_every_cut_is_refused(written: Path) -> None:
    lines = written.read_text().splitlines(keepends=True)
    first = next(k for k, line in enumerate(lines) if line.startswith("begin error-bars"))
    for end in range(first + 1, len(lines)):
        written.write_text("".join(lines[:end]))
        with pytest.raises(InputError):
            load_uncertainty(written)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """File with error bars of all parameters."""
    path = tmp_path / "all.uncertainty.txt"
    save_uncertainty(make_whole(), path)
    return path


def make_whole() -> Uncertainty:
    potential = make_potential(hidden=(2,), gaussian_centers=(2.0,))
    bars = replace(make_bars(potential.networks.n_parameters), form="all-parameters", penalties=(1e-7 / 3, 2.0, 0.1))
    return replace(make_uncertainty(potential), error_bars=bars)


def test_round_trip_of_all_parameters(whole: Path) -> None:
    expected, found = make_whole().error_bars, load_uncertainty(whole)
    found.check(make_potential(hidden=(2,), gaussian_centers=(2.0,)))
    assert expected is not None
    assert found.error_bars is not None
    assert torch.equal(found.error_bars.root, expected.root)
    for name in ("form", "penalties", "noise", "n_effective", "calibrations"):
        assert getattr(found.error_bars, name) == getattr(expected, name)
    # A row is what the format's page says: little-endian float64 in base64.
    rows = [line.split()[1] for line in whole.read_text().splitlines() if line.startswith("row ")]
    assert np.frombuffer(base64.b64decode(rows[2]), "<f8").tolist() == expected.root[2, :3].tolist()
    assert section_bytes(len(rows)) == pytest.approx(sum(map(len, rows)), rel=0.1)


def packed(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f8").tobytes()).decode()


FAULTS_OF_ALL = {
    "no base64": (r"row ", "row !", "expected 'row' and 1 number in base64"),
    "two words": (r"row ", "row AAAA ", "expected 'row' and 1 number in base64"),
    "too long": (r"row \S+", f"row {packed(1, 2)}", "expected 'row' and 1 number in base64"),
    "NaN": (r"row \S+", f"row {packed(float('nan'))}", "expected 'row' and 1 number in base64, all finite"),
    "other letters": (r"row ", "row é", "expected 'row' and 1 number in base64"),
    "a row less": (r"row \S+\n", "", "expected 'row' and 1 number in base64"),
    "penalty": (r"penalty \S+", "penalty 0", "expected 'penalty' and numbers above 0"),
    "no penalty": (r"penalty .*", "penalty", "expected 1 number"),
    "the other form": (r"form \S+", "form last-layer", "expected 1 number"),
}


@pytest.mark.parametrize("name", FAULTS_OF_ALL)
def test_faults_of_all_parameters(whole: Path, name: str) -> None:
    pattern, new, message = FAULTS_OF_ALL[name]
    text = whole.read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    whole.write_text(changed)
    with pytest.raises(InputError) as error:
        load_uncertainty(whole)
    assert message in str(error.value)
    assert str(whole) in str(error.value)


def test_more_than_the_memory_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyfit_gpu.devices.known_memory", lambda device: 100)
    with pytest.raises(InputError, match=r"memory: expected at least .* for error bars of \d+ parameters in .*all.unc"):
        load_uncertainty(whole)


def test_another_last_layer_is_refused() -> None:
    potential = make_potential()
    whole = make_uncertainty(potential)
    other = Uncertainty(whole.checksum, whole.elements, whole.grade, make_bars(7))
    with pytest.raises(InputError, match="expected error bars of 5 last parameters, found 7"):
        other.check(potential, "fit.uncertainty.txt")


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
def test_of_a_physically_informed_potential(bare: bool, tmp_path: Path) -> None:
    """The same again; with as many parameters as a straight network's last layer it is refused."""
    potential, path = make_bond_order(("Si", "C"), bare=bare), tmp_path / "fit.uncertainty.txt"
    straight = make_uncertainty(potential)
    bars = make_bars(n_last_parameters(potential))
    save_uncertainty(replace(straight, error_bars=bars), path)
    found = load_uncertainty_of(path, potential).error_bars
    assert found is not None
    assert len(found.root) == 2 * (1 if bare else 6) * 21
    assert torch.equal(found.root, bars.root)
    save_uncertainty(straight, path)
    with pytest.raises(InputError, match=rf"fit\.uncertainty\.txt: expected error bars of {len(bars.root)} last param"):
        load_uncertainty_of(path, potential)
