"""Schedules: pure functions of the step: `lr = initial_lr * schedule(step)`.

A schedule is a function `step -> multiplier of lr`. `step` counts the updates (or the epochs) done,
so `schedule(0)` multiplies the initial lr. A schedule remembers nothing: it cannot be called in the
wrong order, and a run resumes from its step alone. Any function of one number is a schedule; those
of this file are values besides: immutable, comparable, picklable, printed as they were written.
`steepest.optim.lr_scheduler` has torch's class names over the same functions.
"""
# ruff: noqa: N801  (a schedule is written like the function that it is: cosine(100)(step))

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

from steepest.errors import HyperparameterError

__all__ = ["Schedule", "constant", "cosine", "exponential", "join", "linear", "multi_step",
           "polynomial", "step_decay", "warmup"]  # fmt: skip

_keep = object.__setattr__  # used only while a frozen schedule is made

# name: the rule, and what the number is
_RULES = {
    "factor": ("number of at least 0", "the multiplier of lr"),
    "gamma": ("number of at least 0", "the multiplier of one decay, such as 0.1"),
    "step_size": ("whole number above 0", "the steps from one decay to the next"),
    "steps": ("number above 0", "the steps that the change takes (torch: total_iters, T_max)"),
    "start_factor": ("number of at least 0", "the multiplier of lr where the line begins"),
    "end_factor": ("number of at least 0", "the multiplier of lr after the last step"),
    "power": ("number of at least 0", "the exponent of the line, such as 0.9"),
    "milestone": ("whole number of at least 0", "the step at which lr changes"),
}


def checked(what: str, value: object, rule: str, advice: str) -> float:
    """Return `value` as a plain int or float, or refuse it in one sentence."""
    number = float(value) if isinstance(value, Real) else math.nan
    inside = number > 0 if rule.endswith("above 0") else number >= 0
    whole = rule.startswith("whole")
    if not inside or math.isinf(number) or (whole and not number.is_integer()):
        raise HyperparameterError(f"{what} must be a finite {rule}, got {value!r}: give {advice}")
    return int(number) if whole or isinstance(value, Integral) else number


def _check(schedule: "Schedule", *names: str) -> None:
    for name in names:
        what = f"{type(schedule).__name__}: {name}"
        _keep(schedule, name, checked(what, getattr(schedule, name), *_RULES[name]))


def _whole_milestones(schedule: "multi_step | join") -> list[int]:
    what = f"{type(schedule).__name__}: a milestone"
    return [int(checked(what, m, *_RULES["milestone"])) for m in schedule.milestones]


def _check_functions(schedule: "Schedule", *functions: object) -> None:
    for f in functions:
        if not callable(f):
            what = f"{type(schedule).__name__}: a schedule must be a function of the step"
            raise HyperparameterError(f"{what}, got {f!r}: give one, such as cosine(100)")


def _between(start: float, end: float, share: float) -> float:
    # This form, unlike start + (end - start) * share, is exact at both ends.
    return start * (1.0 - share) + end * share


class Schedule(ABC):
    """Give the multiplier of lr after `step` updates."""

    @abstractmethod
    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class constant(Schedule):
    """Keep lr at `factor` times its initial value: `factor`.

    Raises: HyperparameterError for a `factor` below 0.

    >>> constant(0.5)(1000)
    0.5
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "factor")

    def __call__(self, step: int) -> float:
        return self.factor


@dataclass(frozen=True)
class step_decay(Schedule):
    """Multiply lr by `gamma` every `step_size` steps: `gamma ** (step // step_size)`.

    Source: Szegedy et al. 2015, section 6 (4% less every 8 epochs), https://arxiv.org/abs/1409.4842
    Raises: HyperparameterError for a `step_size` that is not whole and above 0, a `gamma` below 0.

    >>> [step_decay(2, gamma=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check(self, "step_size", "gamma")

    def __call__(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)


@dataclass(frozen=True)
class multi_step(Schedule):
    """Multiply lr by `gamma` at each milestone: `gamma ** (number of milestones <= step)`.

    `milestones` are steps, in any order; one given twice decays twice.

    Source: He et al. 2016, section 4.2 (a tenth at 32k and at 48k), https://arxiv.org/abs/1512.03385
    Raises: HyperparameterError for a milestone that is not whole, a milestone or `gamma` below 0.

    >>> [multi_step([1, 3], gamma=0.5)(step) for step in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _keep(self, "milestones", tuple(sorted(_whole_milestones(self))))
        _check(self, "gamma")

    def __call__(self, step: int) -> float:
        return self.gamma ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class exponential(Schedule):
    """Multiply lr by `gamma` at every step: `gamma ** step`.

    Source: torch.optim.lr_scheduler.ExponentialLR
    Raises: HyperparameterError for a `gamma` below 0.

    >>> [exponential(0.5)(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float

    def __post_init__(self) -> None:
        _check(self, "gamma")

    def __call__(self, step: int) -> float:
        return self.gamma**step


@dataclass(frozen=True)
class linear(Schedule):
    """Go in a straight line from `start_factor` to `end_factor` over `steps`, then stay there.

    `start_factor * (1 - share) + end_factor * share`, where `share = min(step, steps) / steps`.

    Source: Devlin et al. 2019, appendix A.2 (linear decay), https://arxiv.org/abs/1810.04805
    Raises: HyperparameterError for `steps` not above 0, a factor below 0.

    >>> [linear(4)(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    steps: int
    start_factor: float = 1.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "steps", "start_factor", "end_factor")

    def __call__(self, step: int) -> float:
        return _between(self.start_factor, self.end_factor, min(step, self.steps) / self.steps)


@dataclass(frozen=True)
class cosine(Schedule):
    """Fall from 1 to `end_factor` along half a cosine over `steps`, then stay there.

    `end_factor + (1 - end_factor) / 2 * (1 + cos(pi * share))`, `share = min(step, steps) / steps`.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, one descent, https://arxiv.org/abs/1608.03983
    Raises: HyperparameterError for `steps` not above 0, an `end_factor` below 0.

    >>> [round(cosine(4)(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    steps: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "steps", "end_factor")

    def __call__(self, step: int) -> float:
        height = (1 + math.cos(math.pi * min(step, self.steps) / self.steps)) / 2
        return _between(self.end_factor, 1.0, height)


@dataclass(frozen=True)
class polynomial(Schedule):
    """Fall from 1 to `end_factor` along a power of the line over `steps`, then stay there.

    `end_factor + (1 - end_factor) * (1 - share) ** power`, `share = min(step, steps) / steps`.

    Source: Zhao et al. 2017 (PSPNet), section 5.1 (power 0.9), https://arxiv.org/abs/1612.01105
    Raises: HyperparameterError for `steps` not above 0, a `power` or `end_factor` below 0.

    >>> [polynomial(4, power=2)(step) for step in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    steps: int
    power: float = 1.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "steps", "power", "end_factor")

    def __call__(self, step: int) -> float:
        height = (1.0 - min(step, self.steps) / self.steps) ** self.power
        return _between(self.end_factor, 1.0, height)


@dataclass(frozen=True)
class join(Schedule):
    """Follow several schedules one after the other, each from its own step 0.

    `schedules[i](step - milestones[i - 1])`, where `i = number of milestones <= step`.

    Raises: HyperparameterError for milestones that do not rise, or not one fewer than `schedules`.

    >>> schedule = join([constant(0.1), exponential(0.5)], milestones=[2])
    >>> [schedule(step) for step in range(5)]
    [0.1, 0.1, 1.0, 0.5, 0.25]
    """

    schedules: Sequence[Callable[[int], float]]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        _keep(self, "schedules", tuple(self.schedules))
        _check_functions(self, *self.schedules)
        _keep(self, "milestones", tuple(_whole_milestones(self)))
        starts = [0, *self.milestones]
        if len(starts) != len(self.schedules) or any(a >= b for a, b in pairwise(starts)):
            raise HyperparameterError(
                "join: the milestones must rise from above 0 and be one fewer than the schedules, "
                f"got {starts[1:]} for {len(self.schedules)} schedules: give the step at which "
                "each schedule after the first begins"
            )

    def __call__(self, step: int) -> float:
        i = bisect_right(self.milestones, step)
        return self.schedules[i](step - self.milestones[i - 1] if i else step)


@dataclass(frozen=True)
class warmup(Schedule):
    """Rise in a straight line over `steps`, then follow the schedule `after` from its step 0.

    `after(0) * (start_factor * (1 - step / steps) + step / steps)` while `step < steps`, then
    `after(step - steps)`. With `start_factor=None` the line is `(step + 1) / (steps + 1)`, so that
    no update is spent at lr 0. `warmup(100, cosine(900))` fills 1,000 steps.

    Source: Goyal et al. 2017, section 2.2 (gradual warmup), https://arxiv.org/abs/1706.02677
    Raises: HyperparameterError for `steps` not whole or below 0, a `start_factor` below 0.

    >>> [warmup(3, linear(2))(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.0]
    """

    steps: int
    after: Callable[[int], float] = constant()
    start_factor: float | None = None

    def __post_init__(self) -> None:
        rule = ("whole number of at least 0", "the steps of the rise")
        _keep(self, "steps", checked("warmup: steps", self.steps, *rule))
        _check_functions(self, self.after)
        if self.start_factor is not None:
            _check(self, "start_factor")

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.after(step - self.steps)
        start = 1 / (self.steps + 1) if self.start_factor is None else self.start_factor
        return self.after(0) * _between(start, 1.0, step / self.steps)
