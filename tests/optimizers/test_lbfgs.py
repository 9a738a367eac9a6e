"""The batched LBFGS against torch.optim.LBFGS; members that do not disturb each other; states, limits, failures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from objective_values import loss_of
from sample_sets import make_potential, make_set
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.optimizers import lbfgs
from pyfit_gpu.optimizers.base import Gives
from pyfit_gpu.optimizers.lbfgs import LBFGS
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
from pyfit_gpu.optimizers.member_vectors import VectorsTogether
from pyfit_gpu.training.objective import Objective

Function = Callable[[Tensor], Tensor]  # of one point
WOLFE = LBFGSSettings()
PLAIN = LBFGSSettings(line_search="none", learning_rate=0.05)
ENDLESS = {"tolerance_change": 1e-30, "tolerance_gradient": 1e-30}


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(size: int, condition: float, seed: int = 0) -> Function:
    rng = torch.Generator().manual_seed(seed)
    axes, _ = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))
    stiffness = torch.logspace(0, math.log10(condition), size, dtype=torch.float64)
    matrix = (axes * stiffness) @ axes.T
    return lambda x: 0.5 * x @ matrix.to(x.dtype) @ x


def network(force_weight: float = 0.0) -> tuple[Function, Tensor]:
    """The loss of a small network, and where it starts."""
    # The sample's random structures have no neighbours, hence no forces: energies alone are trained on.
    objective = Objective(make_set(sizes=tuple(range(1, 8)) * 6), {"forces": force_weight})
    template = make_potential(hidden=(10, 10)).networks

    def loss(x: Tensor) -> Tensor:
        networks = ElementNetworks.from_flat(
            x[None], template.layer_sizes, n_elements=template.n_elements, activation=template.activation
        )
        return loss_of(objective, networks)[0]

    return loss, template.flat()[0]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Evaluator:
    """Row by row, each in memory of its own: the same bits for a member whoever else is evaluated."""

    gives = frozenset({Gives.GRADIENT})
    recordable_points = 0

    def __init__(self, *functions: Function) -> None:
        """One of each member, or one for all."""
        self.functions = functions
        self.calls: list[list[int]] = []  # members

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.calls.append(members.tolist())
        losses, gradients = [], []
        for k, point in zip(members.tolist(), points, strict=True):
            x = point.clone().requires_grad_(True)
            loss = self.functions[k if len(self.functions) > 1 else 0](x)
            gradients.append(torch.autograd.grad(loss, x)[0])
            losses.append(loss.detach())
        loss = torch.stack(losses)
        return loss, torch.stack(gradients), torch.stack((loss, points.sum(dim=1)), dim=1)


class Torch:
    """torch's own optimiser."""

    def __init__(self, function: Function, start: Tensor, settings: LBFGSSettings) -> None:
        self.function = function
        self.parameters = start.clone().requires_grad_(True)
        self.settings = settings
        self.n_evaluations = 0
        self.optimizer = torch.optim.LBFGS(
            [self.parameters],
            lr=settings.step_length,
            max_iter=settings.max_iterations,
            max_eval=settings.max_evaluations,
            tolerance_grad=settings.tolerance_gradient,
            tolerance_change=settings.tolerance_change,
            history_size=settings.history_size,
            line_search_fn="strong_wolfe" if settings.line_search == "strong-wolfe" else None,
        )

    def step(self) -> Tensor:
        self.optimizer.step(self._closure)
        return self.parameters.detach().clone()

    def _closure(self) -> Tensor:
        self.n_evaluations += 1
        self.optimizer.zero_grad()
        loss = self.function(self.parameters)
        loss.backward()
        return loss

    @property
    def memory(self) -> dict[str, Any]:
        return self.optimizer.state[self.parameters]

    def ours(self) -> LBFGS:
        """Ours in torch's state."""
        optimizer = LBFGS(self.parameters.detach()[None], self.settings)
        state, memory = optimizer.state(), self.memory
        count = len(memory["old_dirs"])
        for i in range(count):
            state["steps"][0, i], state["changes"][0, i] = memory["old_stps"][i], memory["old_dirs"][i]
        state["spare"][0] = state["count"][0] = count
        state["scale"][0], state["length"][0] = float(memory["H_diag"]), float(memory["t"])
        state["direction"][0], state["gradient_before"][0] = memory["d"], memory["prev_flat_grad"]
        state["moved"][0], state["n_iterations"][0] = True, memory["n_iter"]
        optimizer.load_state(state)
        return optimizer


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {
        name: f"{t.dtype} {tuple(t.shape)} ".encode() + t.contiguous().numpy().tobytes() for name, t in tensors.items()
    }


def cases() -> Iterator[tuple[str, Function, Tensor]]:
    yield "network", *network()
    yield "rosenbrock", rosenbrock, 1 + 0.4 * draw(41)
    yield "quadratic", quadratic(50, 1e4), draw(50)


CASES = {name: (function, start) for name, function, start in cases()}


@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_first_five_steps_are_torchs(name: str, settings: LBFGSSettings) -> None:
    function, start = CASES[name]
    reference, evaluate = Torch(function, start, settings), Evaluator(function)
    optimizer = LBFGS(start[None], settings)
    for step in range(1, 6):
        expected = reference.step()
        optimizer.step(evaluate, [0])
        assert relative(optimizer.parameters[0], expected) < (1e-12 if step == 1 else 1e-10)
        # With a line search the first evaluation of torch's later steps repeats a point.
        repeated = step - 1 if settings.line_search == "strong-wolfe" else 0
        assert optimizer.n_evaluations == [reference.n_evaluations - repeated]
    assert sum(map(len, evaluate.calls)) == optimizer.n_evaluations[0]
    optimizer.evaluate(evaluate, [0])
    assert float(optimizer.loss[0]) == pytest.approx(float(function(expected)), rel=1e-8)


@pytest.mark.parametrize("history_size", [5, 100])
@pytest.mark.parametrize("settings", [{}, {"line_search": "none", "learning_rate": 0.05}], ids=["wolfe", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_one_step_from_torchs_state_is_torchs(name: str, settings: dict[str, Any], history_size: int) -> None:
    """At many points of a run of hundreds of iterations, with young and with full histories."""
    function, start = CASES[name]
    options = LBFGSSettings(history_size=history_size, **settings)
    reference = Torch(function, start, options)
    reference.step()
    compared = 0
    for _ in range(40):
        optimizer = reference.ours()
        n_before, n_iterations = reference.n_evaluations, reference.memory["n_iter"]
        expected = reference.step()
        if reference.memory["n_iter"] == n_iterations:
            break  # arrived
        optimizer.step(Evaluator(function), [0])
        assert relative(optimizer.parameters[0], expected) < 1e-12
        assert optimizer.n_evaluations == [reference.n_evaluations - n_before]
        assert optimizer.state()["n_iterations"].tolist() == [reference.memory["n_iter"]]
        compared += 1
    assert compared == 40 or float(function(expected)) < 1e-7
    assert len(reference.memory["old_dirs"]) == history_size or float(function(expected)) < 1e-7


@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
def test_continues_as_torch_after_the_ring_has_gone_round(settings: LBFGSSettings) -> None:
    """History 3: after two steps every place has been used several times."""
    function, start = quadratic(20, 30.0), draw(20)
    settings = LBFGSSettings(settings.line_search, settings.learning_rate, history_size=3)
    reference, optimizer = Torch(function, start, settings), LBFGS(start[None], settings)
    for _ in range(3):
        expected = reference.step()
        optimizer.step(Evaluator(function), [0])
    assert optimizer.state()["count"].tolist() == [3]
    assert relative(optimizer.parameters[0], expected) < 1e-10


@pytest.mark.parametrize(
    "limits",
    [
        {"max_evaluations": 1},
        {"max_evaluations": 2},
        {"max_evaluations": 5},
        {"max_iterations": 1},
        {"max_iterations": 3, "max_evaluations": 40},
        {"tolerance_gradient": 30.0},
        {"tolerance_gradient": 1e9},
        {"tolerance_change": 0.3},
        {"tolerance_change": 1e3},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", [WOLFE, PLAIN], ids=["wolfe", "plain"])
def test_limits_end_a_step_where_torch_ends_it(limits: dict[str, Any], base: LBFGSSettings) -> None:
    start = 1 + 0.4 * draw(41)
    rate = 1e-3 if base is PLAIN else 1.0
    settings = LBFGSSettings(**{"line_search": base.line_search, "learning_rate": rate, **limits})
    reference, optimizer = Torch(rosenbrock, start, settings), LBFGS(start[None], settings)
    known: list[bool] = []
    for _ in range(3):
        expected = reference.step()
        optimizer.step(Evaluator(rosenbrock), [0])
        assert relative(optimizer.parameters[0], expected) < 1e-11
        assert optimizer.state()["n_iterations"].tolist() == [reference.memory["n_iter"]]
        # torch repeats the first evaluation unless the last point was left without one.
        known.append(optimizer.known[0])
        assert optimizer.n_evaluations == [reference.n_evaluations - sum(known[:-1])]


def test_line_search_evaluations_limit_each_search() -> None:
    """From a first trial far too long, where a search takes more."""

    def steep(x: Tensor) -> Tensor:
        return (x**2).sum() + 1e-9 * (x**2).sum().cosh()

    start = torch.full((1, 7), 1.5, dtype=torch.float64)
    numbers = []
    for limit in (1, 2, 3, 25):
        options = {"max_iterations": 1, "max_evaluations": 100, "line_search_evaluations": limit}
        optimizer = LBFGS(start, LBFGSSettings(learning_rate=1e4, **options))
        optimizer.step(Evaluator(steep), [0])
        numbers.append(optimizer.n_evaluations[0] - 1)
    assert numbers[:3] == [1, 2, 3]
    assert 3 < numbers[3] <= 25


@pytest.mark.parametrize(
    ("function", "start"),
    [(rosenbrock, torch.tensor([-1.2, 1.0, -0.5, 0.8, 1.4])), (quadratic(30, 1e4), draw(30))],
    ids=["rosenbrock", "quadratic"],
)
def test_converges(function: Function, start: Tensor) -> None:
    optimizer = LBFGS(start.double()[None], LBFGSSettings(tolerance_change=0.0))
    evaluate = Evaluator(function)
    for _ in range(40):
        optimizer.step(evaluate, [0])
    assert float(optimizer.loss[0]) < 1e-14
    assert float(optimizer.gradient.abs().max()) <= 1e-7
    count = optimizer.n_evaluations
    optimizer.step(evaluate, [0])
    assert optimizer.n_evaluations == count  # nothing left to do


def test_float32_converges_and_stays_float32() -> None:
    optimizer = LBFGS(torch.tensor([[-1.2, 1.0, 0.5]]), LBFGSSettings())
    for _ in range(15):
        optimizer.step(Evaluator(rosenbrock), [0])
    assert optimizer.parameters.dtype == optimizer.gradient.dtype == torch.float32
    assert optimizer.state()["steps"].dtype == torch.float32
    assert float(optimizer.loss[0]) < 1e-8


@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
@pytest.mark.parametrize(("n_members", "n_parameters"), [(3, 37), (8, 16), (3, 171), (8, 1), (2, 513)])
def test_a_member_has_the_same_bits_alone_and_among_others(
    n_members: int, n_parameters: int, settings: LBFGSSettings
) -> None:
    """Members at different phases: some are left out of steps, one restarts."""
    settings = LBFGSSettings(settings.line_search, settings.learning_rate, history_size=7)
    functions = [quadratic(n_parameters, 10.0 ** (1 + k % 4), seed=k) for k in range(n_members)]
    starts, fresh = draw(n_members, n_parameters), draw(n_parameters, seed=9)
    rng = torch.Generator().manual_seed(n_members)
    takes_part = (torch.rand(7, n_members, generator=rng) < 0.7).tolist()
    together = LBFGS(starts, settings)
    alone = [LBFGS(start[None], settings) for start in starts]
    for step, chosen in enumerate(takes_part):
        together.step(Evaluator(*functions), [k for k in range(n_members) if chosen[k]])
        for k in range(n_members):
            if chosen[k]:
                alone[k].step(Evaluator(functions[k]), [0])
        if step == 3:
            together.restart(1, fresh)
            alone[1].restart(0, fresh)
    states = together.state()
    for k, one in enumerate(alone):
        assert bits({name: value[k : k + 1] for name, value in states.items()}) == bits(one.state()), k
    assert not all(map(all, takes_part))


def test_members_are_evaluated_together_and_only_those_named() -> None:
    evaluate = Evaluator(rosenbrock)
    optimizer = LBFGS(1 + 0.3 * draw(4, 6), WOLFE)
    optimizer.step(evaluate, [3, 0, 1])
    assert evaluate.calls[:2] == [[0, 1, 3]] * 2
    assert optimizer.known == [True, True, False, True]
    assert optimizer.n_evaluations[2] == 0
    assert torch.equal(optimizer.parameters[2], 1 + 0.3 * draw(4, 6)[2])
    assert len(evaluate.calls) == max(optimizer.n_evaluations)
    with pytest.raises(ValueError, match=r"members: expected numbers from 0 to 3, got \[4\]"):
        optimizer.step(evaluate, [4])


@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
def test_what_is_known_belongs_to_the_parameters(settings: LBFGSSettings) -> None:
    evaluate = Evaluator(rosenbrock)
    optimizer = LBFGS(1 + 0.3 * draw(3, 6), settings)
    for _ in range(4):
        optimizer.step(evaluate, [0, 2])
        assert optimizer.known == [settings.line_search == "strong-wolfe", False] * 1 + [optimizer.known[2]]
        assert optimizer.known[0] or bool(optimizer.loss[0].isnan())
        n_calls = len(evaluate.calls)
        optimizer.evaluate(evaluate, [0, 2])
        assert len(evaluate.calls) - n_calls == (settings.line_search == "none")
        optimizer.evaluate(evaluate, [0, 2])
        assert len(evaluate.calls) - n_calls == (settings.line_search == "none")
        loss, gradient, extras = Evaluator(rosenbrock)(optimizer.parameters.clone(), torch.arange(3))
        for k in (0, 2):
            assert torch.equal(optimizer.loss[k], loss[k])
            assert torch.equal(optimizer.gradient[k], gradient[k])
            assert torch.equal(optimizer.extras[k], extras[k])


@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
@pytest.mark.parametrize("evaluated", [True, False])
def test_a_loaded_state_continues_bit_for_bit(settings: LBFGSSettings, evaluated: bool) -> None:
    settings = LBFGSSettings(settings.line_search, settings.learning_rate, history_size=12)
    functions = [quadratic(37, 100.0, seed=k) for k in range(3)]
    evaluate = Evaluator(*functions)
    optimizer = LBFGS(draw(3, 37), settings)
    for members in ([0, 1], [0], [0, 1]):
        optimizer.step(evaluate, members)
    if evaluated:
        optimizer.evaluate(evaluate, [0, 1, 2])
    state = optimizer.state()
    fresh = LBFGS(torch.zeros(3, 37, dtype=torch.float64), settings)
    fresh.load_state(state)
    assert bits(fresh.state()) == bits(state)
    for members in ([0, 1, 2], [2], [0, 1, 2]):
        optimizer.step(evaluate, members)
        fresh.step(evaluate, members)
    assert bits(fresh.state()) == bits(optimizer.state()) != bits(state)
    used = LBFGS(draw(3, 37, seed=4), settings)
    used.step(evaluate, [0, 2])
    used.load_state(state)
    assert bits(used.state()) == bits(state)


def test_a_state_is_a_copy_and_is_checked() -> None:
    optimizer = LBFGS(draw(2, 5), WOLFE)
    state = optimizer.state()
    optimizer.step(Evaluator(rosenbrock), [0, 1])
    assert torch.equal(state["weights"], draw(2, 5))
    before = bits(optimizer.state())
    with pytest.raises(InputError, match=r"steps: expected shape \(2, 101, 5\), got \(2, 51, 5\)"):
        optimizer.load_state(LBFGS(draw(2, 5), LBFGSSettings(history_size=50)).state())
    with pytest.raises(InputError, match=r"gradient_before: expected shape .* got nothing"):
        optimizer.load_state({name: value for name, value in state.items() if name != "gradient_before"})
    assert bits(optimizer.state()) == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("count", lambda value: value + 100),
        ("count", lambda value: value.double()),
        ("spare", lambda value: value - 100),
        ("known", lambda value: value.long()),
        ("weights", lambda value: value.long()),
        ("steps", torch.zeros_like),
        ("changes", lambda value: value * math.nan),
        ("extras", lambda value: value.sum(dim=1)),
    ],
)
def test_states_that_no_fit_leaves(name: str, change: Function) -> None:
    """A run file can hold anything: refused, before anything has changed."""
    optimizer = LBFGS(draw(2, 5), LBFGSSettings(history_size=3))
    optimizer.step(Evaluator(rosenbrock), [0, 1])
    state = optimizer.state()
    assert min(state["count"]) > 0
    bad = {**state, name: change(state[name])}
    with pytest.raises(InputError, match=f"optimiser state: .*{name}"):
        optimizer.load_state(bad)
    assert bits(optimizer.state()) == bits(state)


def test_restart_is_a_new_beginning() -> None:
    function = quadratic(21, 50.0)
    optimizer = LBFGS(draw(2, 21), WOLFE)
    for _ in range(3):
        optimizer.step(Evaluator(function), [0, 1])
    other = {name: value[0] for name, value in optimizer.state().items()}
    count = optimizer.n_evaluations[1]
    optimizer.restart(1, draw(21, seed=5))
    assert optimizer.known == [True, False]
    assert bits({name: value[0] for name, value in optimizer.state().items()}) == bits(other)
    fresh = LBFGS(draw(21, seed=5)[None], WOLFE)
    for _ in range(2):
        optimizer.step(Evaluator(function), [1])
        fresh.step(Evaluator(function), [0])
    assert torch.equal(optimizer.parameters[1], fresh.parameters[0])
    assert optimizer.n_evaluations[1] == count + fresh.n_evaluations[0]
    with pytest.raises(ValueError, match=r"parameters: expected shape \(21,\), got \(20,\)"):
        optimizer.restart(0, draw(20))


class Failing:
    """A function that is not a number after so many evaluations."""

    def __init__(self, function: Function, after: int, value: float, times: float = math.inf) -> None:
        self.function, self.after, self.value, self.times = function, after, value, times
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        failing = self.after < self.count <= self.after + self.times
        return self.function(x) * (self.value if failing else 1.0)


@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("after", [0, 1, 7, 25])
def test_a_failing_member_disturbs_no_other(after: int, value: float, settings: LBFGSSettings) -> None:
    function = quadratic(19, 100.0)
    evaluate = Evaluator(function, Failing(function, after, value), function)
    optimizer, sound = LBFGS(draw(3, 19), settings), LBFGS(draw(3, 19), settings)
    for _ in range(4):
        optimizer.step(evaluate, [0, 1, 2])
        sound.step(Evaluator(function), [0, 1, 2])
    optimizer.evaluate(evaluate, [0, 1, 2])
    sound.evaluate(Evaluator(function), [0, 1, 2])
    for k in (0, 2):
        mine, expected = ({name: value[k] for name, value in o.state().items()} for o in (optimizer, sound))
        assert bits(mine) == bits(expected)
    assert optimizer.n_evaluations[1] <= 60
    assert not bool(optimizer.loss[1].isfinite()) or settings is WOLFE
    if after == 0:
        assert bool(optimizer.loss[1].isnan())
        assert optimizer.n_evaluations[1] == 1  # nothing is spent on it
    optimizer.restart(1, draw(19, seed=3))
    healthy = Evaluator(function)
    optimizer.step(healthy, [1])
    fresh = LBFGS(draw(19, seed=3)[None], settings)
    fresh.step(healthy, [0])
    assert torch.equal(optimizer.parameters[1], fresh.parameters[0])


def test_a_line_search_comes_back_from_where_the_loss_is_not_a_number() -> None:
    def barrier(x: Tensor) -> Tensor:
        return (5 * x).sum() - (1 + x).log().sum() - (1 - x).log().sum()

    settings = LBFGSSettings(learning_rate=30.0, tolerance_change=0.0)
    optimizer = LBFGS(torch.full((1, 5), 0.9, dtype=torch.float64), settings)
    for _ in range(5):
        optimizer.step(Evaluator(barrier), [0])
    exact = (1 - math.sqrt(26)) / 5  # where 5 + 2 x / (1 - x^2) vanishes
    torch.testing.assert_close(optimizer.parameters, torch.full((1, 5), exact, dtype=torch.float64), rtol=1e-7, atol=0)


def handle_together(optimizer: LBFGS, starts: Tensor) -> None:
    """Handle all members together as on a GPU, with directions computed in advance."""
    optimizer._vectors = VectorsTogether(starts, optimizer.settings.history_size)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
def test_vectors_in_one_batch_with_directions_in_advance(name: str, settings: LBFGSSettings) -> None:
    """The kind for a GPU takes the same decisions, with one transfer a round (and one for a step's first direction)."""
    function, start = CASES[name]
    starts = start + 0.1 * draw(4, len(start))
    one_by_one, batched = LBFGS(starts, settings), LBFGS(starts, settings)
    handle_together(batched, starts)
    for members, tolerance in (([0, 1, 3], 1e-11), ([0, 2], 1e-9), ([0, 1, 2, 3], 1e-8)):
        one_by_one.step(Evaluator(function), members)
        batched.step(Evaluator(function), members)
        # Another order of summation, which grows: reordered weights move torch itself by 1e-9 in three steps.
        assert relative(batched.parameters, one_by_one.parameters) < tolerance
        assert batched.n_evaluations == one_by_one.n_evaluations


def test_directions_in_advance_are_of_the_accepted_trial() -> None:
    """Searches cut short often accept a trial before the last."""

    def rugged(x: Tensor) -> Tensor:
        return (x.square() + 0.3 * (40 * x).sin()).sum()

    limits = {"max_iterations": 5, "max_evaluations": 100, "line_search_evaluations": 3}
    settings = LBFGSSettings(learning_rate=2.0, **limits)
    starts = draw(8, 3)
    one_by_one, batched = LBFGS(starts, settings), LBFGS(starts, settings)
    handle_together(batched, starts)
    for optimizer in (one_by_one, batched):
        optimizer.step(Evaluator(rugged), range(8))
    assert relative(batched.parameters, one_by_one.parameters) < 1e-9


def test_one_transfer_for_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    function = quadratic(30, 100.0)
    evaluate, transfers = Evaluator(function), []
    original = lbfgs._transfer
    monkeypatch.setattr(lbfgs, "_transfer", lambda *tensors: transfers.append(1) or original(*tensors))
    optimizer = LBFGS(draw(1, 30), PLAIN)
    handle_together(optimizer, draw(1, 30))
    for _ in range(3):
        optimizer.step(evaluate, [0])
    assert len(evaluate.calls) == 30
    assert len(transfers) == 30 + 3


class Stiff:
    """A quadratic function of condition number 100, all members in one product."""

    gives = frozenset({Gives.GRADIENT})

    def __init__(self, device: str, *, recordable_points: int = 0) -> None:
        self.matrix = torch.diag(torch.logspace(0, 2, 30, dtype=torch.float64)).to(device)
        self.recordable_points, self.n_calls = recordable_points, 0

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.n_calls += 1
        gradient = points @ self.matrix
        loss = (points * gradient).sum(dim=1) / 2
        return loss, gradient, loss[:, None]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.filterwarnings("default")  # torch warns of the mode itself, and of what it is asked to find
@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
def test_on_a_gpu_only_the_transfers_wait(settings: LBFGSSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = []
    original = lbfgs._transfer
    monkeypatch.setattr(lbfgs, "_transfer", lambda *tensors: transfers.append(1) or original(*tensors))
    on_gpu, on_cpu = LBFGS(draw(4, 30).cuda(), settings), LBFGS(draw(4, 30), settings)
    evaluate = Stiff("cuda")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            for members in ([0, 1, 2, 3], [0, 2, 3], [1, 3]):
                on_gpu.step(evaluate, members)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in waits if "synchroniz" in str(w.message)]) == len(transfers) > 20
    for members in ([0, 1, 2, 3], [0, 2, 3], [1, 3]):
        on_cpu.step(Stiff("cpu"), members)
    assert relative(on_gpu.parameters.cpu(), on_cpu.parameters) < 1e-10
    assert on_gpu.n_evaluations == on_cpu.n_evaluations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("settings", [WOLFE, PLAIN], ids=["wolfe", "plain"])
def test_recorded_trials_are_the_same_and_hardly_called(settings: LBFGSSettings) -> None:
    """Also after a restart and new states, which change tensors under the recordings."""
    found = []
    for recordable_points in (0, 4):
        evaluate = Stiff("cuda", recordable_points=recordable_points)
        optimizer = LBFGS(draw(4, 30).cuda(), settings)
        for members in ([0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 3]):
            optimizer.step(evaluate, members)
        optimizer.restart(2, draw(1, 30)[0].cuda())
        optimizer.step(evaluate, [0, 2])
        other = LBFGS(draw(4, 30).cuda(), settings)
        other.step(evaluate, [0, 1, 2, 3])
        other.load_state(optimizer.state())
        other.step(evaluate, [1, 2])
        found.append((optimizer.parameters, other.parameters, other.loss, other.extras))
        n_evaluations = sum(optimizer.n_evaluations)
        assert evaluate.n_calls > n_evaluations / 4 if not recordable_points else evaluate.n_calls < n_evaluations / 4
    for plain, recorded in zip(*found, strict=True):
        torch.testing.assert_close(recorded, plain, rtol=1e-10, atol=1e-13, equal_nan=True)


def test_a_step_cut_off_leaves_a_sound_optimiser_but_no_state() -> None:
    function = quadratic(12, 100.0)
    optimizer = LBFGS(draw(2, 12), WOLFE)
    state = optimizer.state()

    def interrupted(points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if max(optimizer.n_evaluations) == 5:
            raise KeyboardInterrupt
        return Evaluator(function)(points, members)

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(interrupted, [0, 1])
    with pytest.raises(RuntimeError, match="cut off"):
        optimizer.state()
    torch.testing.assert_close(optimizer.loss[0], function(optimizer.parameters[0]), rtol=1e-14, atol=0)
    optimizer.load_state(state)
    whole = LBFGS(draw(2, 12), WOLFE)
    for o in (optimizer, whole):
        o.step(Evaluator(function), [0, 1])
    assert bits(optimizer.state()) == bits(whole.state())


def test_learning_rate_of_one_step() -> None:
    function = quadratic(12, 100.0)
    fast, slow = (LBFGS(draw(1, 12), LBFGSSettings(line_search="none", learning_rate=rate)) for rate in (0.5, 0.125))
    for _ in range(2):
        fast.step(Evaluator(function), [0], learning_rate_factor=0.25)
        slow.step(Evaluator(function), [0])
    assert torch.equal(fast.parameters, slow.parameters)
    slow.step(Evaluator(function), [0], learning_rate_factor=0.5)
    fast.step(Evaluator(function), [0])
    assert not torch.equal(fast.parameters, slow.parameters)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("line_search", "wolfe", "strong-wolfe or none, got 'wolfe'"),
        ("learning_rate", 0.0, "a number above 0, got 0.0"),
        ("learning_rate", math.nan, "a number above 0, got nan"),
        ("max_iterations", 0, "a whole number above 0, got 0"),
        ("max_evaluations", 0, "a whole number above 0, got 0"),
        ("history_size", 0, "a whole number above 0, got 0"),
        ("line_search_evaluations", -1, "a whole number above 0, got -1"),
        ("tolerance_gradient", -1e-9, "a number >= 0, got -1e-09"),
        ("tolerance_change", math.inf, "a number >= 0, got inf"),
    ],
)
def test_settings_are_checked(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=f"{name}: expected {message}"):
        LBFGSSettings(**{name: value})


@pytest.mark.parametrize("parameters", [torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)])
def test_parameters_are_checked(parameters: Tensor) -> None:
    with pytest.raises(ValueError, match="parameters: expected floats"):
        LBFGS(parameters, WOLFE)


def test_parameters_are_copied() -> None:
    start = draw(2, 4)
    optimizer = LBFGS(start, WOLFE)
    optimizer.step(Evaluator(rosenbrock), [0, 1])
    assert torch.equal(start, draw(2, 4))
