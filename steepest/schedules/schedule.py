"""Schedule: a function of the step that is a value, and its product with numbers and others."""
# ruff: noqa: N801  (a schedule is written like the function that it is)

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from steepest.errors import HyperparameterError

keep = object.__setattr__  # used only while a frozen schedule is made

# name: the rule, and what the number is
RULES = {
    "value": ("number of at least 0", "the value, such as 1e-3"),
    "factor": ("number of at least 0", "what the schedule is multiplied with, such as 1e-3"),
    "gamma": ("number of at least 0", "the factor of one decay, such as 0.1"),
    "step_size": ("whole number above 0", "the steps from one decay to the next"),
    "steps": ("whole number of at least 0", "the steps of the rise"),
    "start": ("number of at least 0", "the value from which it goes, such as 1e-3"),
    "total": ("number above 0", "the steps in all (torch: total_iters, T_max)"),
    "warmup": ("whole number of at least 0", "the steps of the rise to the start"),
    "first": ("whole number above 0", "the steps of the first fall (torch: T_0)"),
    "growth": ("whole number above 0", "how many times as long the next fall is (torch: T_mult)"),
    "end": ("number of at least 0", "the value after the last step"),
    "power": ("number of at least 0", "the exponent of the line, such as 0.9"),
    "milestone": ("whole number of at least 0", "the step at which the value changes"),
}


def checked(what: str, value: object, rule: str, advice: str) -> float:
    """Return `value` as a plain int or float, or refuse it in one sentence."""
    number = float(value) if isinstance(value, Real) else math.nan
    inside = number > 0 if rule.endswith("above 0") else number >= 0
    whole = rule.startswith("whole")
    if not inside or math.isinf(number) or (whole and not number.is_integer()):
        raise HyperparameterError(f"{what} must be a finite {rule}, got {value!r}: give {advice}")
    return int(number) if whole or isinstance(value, Integral) else number


def check_numbers(schedule: Any) -> None:
    """Make the numbers of a new schedule plain, or refuse one that is out of its bounds."""
    for name in (field.name for field in fields(schedule) if field.name in RULES):
        what = f"{type(schedule).__name__}: {name}"
        keep(schedule, name, checked(what, getattr(schedule, name), *RULES[name]))


class Schedule(ABC):
    """Give the value after `step` updates.

    A number or another schedule times a schedule is a schedule: `1e-3 * exponential(0.99)`.
    """

    @abstractmethod
    def __call__(self, step: int) -> float: ...

    def __mul__(self, other: object) -> "Schedule":
        """Return the schedule whose values are this one's times a number, or another's."""
        factor, schedules = _factors(self)
        if isinstance(other, Schedule):
            more, others = _factors(other)
            return _times(factor * more, schedules + others)
        if not isinstance(other, Real):
            return NotImplemented
        what = "a schedule's factor"
        return _times(factor * checked(what, other, *RULES["factor"]), schedules)

    __rmul__ = __mul__


@dataclass(frozen=True, repr=False)
class product(Schedule):
    """Multiply a number and schedules; what `*` gives, written as it was: `0.1 * warmup(5)`."""

    factor: float
    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: int) -> float:
        return math.prod((schedule(step) for schedule in self.schedules), start=self.factor)

    def __repr__(self) -> str:
        numbers = () if self.factor == 1 else (self.factor,)
        return " * ".join(map(repr, (*numbers, *self.schedules)))


def _factors(schedule: Schedule) -> tuple[float, tuple[Schedule, ...]]:
    if isinstance(schedule, product):
        return schedule.factor, schedule.schedules
    return 1, (schedule,)


def _times(factor: float, schedules: tuple[Schedule, ...]) -> Schedule:
    # One value for one meaning: no product in a product, and 1 * schedule is the schedule.
    return schedules[0] if factor == 1 and len(schedules) == 1 else product(factor, schedules)
