"""A line search for the strong Wolfe conditions, on the host: numbers in, step lengths out.

Along a direction p from the point x, with phi(a) = f(x + a p), it looks for a step length a with

    phi(a) <= phi(0) + C1 a phi'(0)      sufficient decrease
    |phi'(a)| <= C2 |phi'(0)|            curvature

by bracketing and zooming (Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 3.5 and 3.6) with cubic
interpolation (equation 3.59). Where that leaves a choice, it decides as torch.optim.LBFGS does: when to interpolate,
within which bounds, how to keep clear of the ends of a bracket, when to give up. There is one exception: a trial that
is not a number lies too far out, where torch would go on outwards.

The search is a generator, so that many can wait for one evaluation: it yields a `TrialRequest`, a step length and a
slot to store the gradient in, and is sent the `Trial`.

The search also has the bits of torch's: another rounding error grows to 1e-7 within fifty iterations on a network, and
a test could no longer tell it from a mistake. Two operations round in a way of their own in torch, and are imitated:

- torch takes roots of tensors, whose last bit is not always that of `math.sqrt` (`_root`);
- a step length is a Python float in torch until the first interpolation, and a tensor of no dimension from then on.
  A Python float is divided by another as usual, a number by a tensor by way of the tensor's reciprocal, which rounds
  twice (`_quotient`). Requests and trials therefore carry `given`: whether their length is still a float in torch.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch

C1 = 1e-4
C2 = 0.9
_WIDENING = (0.01, 10.0)  # while bracketing: least move in units of the last one, largest growth of the step length
_MARGIN = 0.1  # between the next trial and the ends of a bracket, in units of its width

SLOTS = 3  # gradients of a member: at the start, at the best point so far, on trial


@dataclass(frozen=True)
class Trial:
    """Loss and slope at one step length."""

    length: float  # a
    loss: float  # phi(a)
    slope: float  # phi'(a)
    slot: int  # in which the gradient is stored
    gradient_max: float  # its largest component
    given: bool = True  # neither interpolated nor derived from such a length: see above


@dataclass(frozen=True)
class TrialRequest:
    """Request to evaluate this step length and to store the gradient in this slot."""

    length: float
    slot: int
    given: bool = True


LineSearch = Generator[TrialRequest, Trial, Trial]


def strong_wolfe(start: Trial, first: TrialRequest, *, longest: float, tolerance: float, max_trials: int) -> LineSearch:
    """Search from `start` (length 0), with `first` as the first trial; return the accepted trial.

    The accepted trial is one of those tried, or the start. If the bracket became too narrow or the trials were used up,
    it need not satisfy the conditions, and has the least loss known.

    Args:
        longest: largest component of the direction.
        tolerance: least movement of that component across a bracket; a bracket with less is too narrow.
        max_trials: number of trials after the first one.
    """
    before, trial = start, (yield first)
    trials = 0
    while trials < max_trials:
        # The second trial is exempt from the comparison with the first, as in torch.
        if _too_far(trial, start) or (trials > 1 and trial.loss >= before.loss):
            break
        if abs(trial.slope) <= -C2 * start.slope:
            return trial
        if trial.slope >= 0:
            break
        least = trial.length + _WIDENING[0] * (trial.length - before.length)
        length, inside = cubic_minimum(before, trial, bounds=(least, trial.length * _WIDENING[1]))
        request = TrialRequest(length, other_slot(start.slot, trial.slot), trial.given and not inside)
        before, trial = trial, (yield request)
        trials += 1
    else:
        return (start, trial)[_lower(start, trial)]
    return (yield from _zoom(start, [before, trial], longest, tolerance, max_trials - trials))


def _zoom(start: Trial, ends: list[Trial], longest: float, tolerance: float, max_trials: int) -> LineSearch:
    """Narrow the bracket between two trials. The end with less loss, `low`, is always the best known point."""
    low = _lower(*ends)
    near_an_end = False  # the last trial was close to an end of its bracket
    for _ in range(max_trials):
        if abs(ends[1].length - ends[0].length) * longest < tolerance:
            break
        lengths = sorted(end.length for end in ends)
        interpolated, inside = cubic_minimum(*ends)
        length, near_an_end = _keep_clear(interpolated, lengths[0], lengths[1], near_an_end)
        given = ends[0].given and ends[1].given and not (inside and length == interpolated)
        trial = yield TrialRequest(length, other_slot(start.slot, ends[low].slot), given)
        if _too_far(trial, start) or not trial.loss < ends[low].loss:
            ends[1 - low] = trial
            low = _lower(*ends)
            continue
        if abs(trial.slope) <= -C2 * start.slope:
            return trial
        if trial.slope * (ends[1 - low].length - ends[low].length) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = trial
    return ends[low]


def other_slot(*taken: int | None) -> int:
    """Choose a slot that is not taken."""
    return next(slot for slot in range(SLOTS) if slot not in taken)


def _too_far(trial: Trial, start: Trial) -> bool:
    """Whether the loss has no sufficient decrease, or is not a number."""
    return not trial.loss <= start.loss + C1 * trial.length * start.slope


def _lower(first: Trial, second: Trial) -> int:
    """Index (0 or 1) of the trial with less loss: the first of equals, and a number rather than NaN."""
    return int(second.loss < first.loss)


def cubic_minimum(one: Trial, other: Trial, *, bounds: tuple[float, float] | None = None) -> tuple[float, bool]:
    """Minimise the cubic through losses and slopes of two trials, within bounds.

    Args:
        bounds: least and largest length; None: the lengths of the trials.

    Returns:
        The length, which is the middle of the bounds if the cubic has no minimum or is not finite, and whether it is
        the minimum of the cubic itself.
    """
    left, right = (one, other) if one.length <= other.length else (other, one)
    low, high = bounds or (left.length, right.length)
    try:
        chord = _quotient(3 * (left.loss - right.loss), left.length - right.length, one.given and other.given)
        mean = left.slope + right.slope - chord
        square = mean * mean - left.slope * right.slope
        root = _root(square) if square >= 0 else math.nan
        ahead = (right.slope + root - mean) / (right.slope - left.slope + 2 * root)
    except ZeroDivisionError:
        ahead = math.nan
    length = right.length - (right.length - left.length) * ahead
    if math.isnan(length):
        return (low + high) / 2, False
    return min(max(length, low), high), low <= length <= high


def _root(number: float) -> float:
    """Square root with torch's last bit."""
    return torch.tensor(number, dtype=torch.float64).sqrt().item()


def _quotient(number: float, width: float, given: bool) -> float:
    """Quotient with torch's last bit; `given`: the width is the difference of two Python floats in torch."""
    return number / width if given else number * (1.0 / width)


def _keep_clear(length: float, low: float, high: float, near_an_end: bool) -> tuple[float, bool]:
    """Move a trial away from the ends of its bracket if it lies at one, or close to one for the second time running.

    Returns:
        The length, and whether it is close to an end.
    """
    margin = _MARGIN * (high - low)
    if not min(high - length, length - low) < margin:
        return length, False
    if not near_an_end and low < length < high:
        return length, True
    return (high - margin if abs(length - high) < abs(length - low) else low + margin), False
