"""The schedules: from a start to an end (linear, cosine, polynomial), by factors, one by one."""
# ruff: noqa: N801  (a schedule is written like the function that it is: cosine(total=100)(step))

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise

from steepest.errors import HyperparameterError
from steepest.schedules.schedule import RULES, Schedule, check_numbers, checked, keep


@dataclass(frozen=True)
class constant(Schedule):
    """Stay at `value`.

    Raises: HyperparameterError for a `value` below 0.

    >>> constant(0.5)(1000)
    0.5
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: int) -> float:
        return self.value


def _between(start: float, end: float, share: float) -> float:
    # This form, unlike start + (end - start) * share, is exact at both ends.
    return start * (1.0 - share) + end * share


@dataclass(frozen=True)
class _Path(Schedule, ABC):
    """Go from `start` to `end`, which is reached at the step `total`; then stay there."""

    start: float = 1.0
    _: KW_ONLY
    total: int
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.warmup >= self.total:
            raise HyperparameterError(
                f"{type(self).__name__}: the warmup must be shorter than the total, of which it is "
                f"a part, got warmup={self.warmup} and total={self.total}: give the steps in all "
                "as total"
            )

    @abstractmethod
    def height(self, share: float) -> float:
        """Return what is left of the way, from 1 to 0, when `share` of its steps is done."""

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.start * ((step + 1) / (self.warmup + 1))
        share = (min(step, self.total) - self.warmup) / (self.total - self.warmup)
        return _between(self.end, self.start, self.height(share))


@dataclass(frozen=True)
class linear(_Path):
    """Go in a straight line from `start` to `end` at step `total`, then stay there.

    `start * (1 - share) + end * share`, where `share = (step - warmup) / (total - warmup)`; before
    that, `warmup` steps rise to `start` as `schedules.warmup` does.

    Source: Devlin et al. 2019, appendix A.2 (warmup, linear decay), https://arxiv.org/abs/1810.04805
    Raises: HyperparameterError for a `total` not above `warmup`, a `start` or `end` below 0.

    >>> [linear(total=4)(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def height(self, share: float) -> float:
        """Return `1 - share`."""
        return 1.0 - share


@dataclass(frozen=True)
class cosine(_Path):
    """Go from `start` to `end` at step `total` along half a cosine, then stay there.

    `end + (start - end) / 2 * (1 + cos(pi * share))`, `share = (step - warmup) / (total - warmup)`;
    before that, `warmup` steps rise to `start` as `schedules.warmup` does.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, one descent, https://arxiv.org/abs/1608.03983
    Raises: HyperparameterError for a `total` not above `warmup`, a `start` or `end` below 0.

    >>> [round(cosine(0.1, total=6, warmup=2)(step), 3) for step in range(8)]
    [0.033, 0.067, 0.1, 0.085, 0.05, 0.015, 0.0, 0.0]
    """

    def height(self, share: float) -> float:
        """Return half a cosine over the height of 1."""
        return (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class restarts(Schedule):
    """Fall from `start` to `end` along half a cosine, over and over.

    The first fall takes `first` steps, each next one `growth` times as many; `schedules.cosine`
    within each.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, https://arxiv.org/abs/1608.03983
    Raises: HyperparameterError for a `first` or `growth` not whole and above 0, another below 0.

    >>> [round(restarts(first=2, growth=2)(step), 2) for step in range(8)]
    [1.0, 0.5, 1.0, 0.85, 0.5, 0.15, 1.0, 0.96]
    """

    start: float = 1.0
    _: KW_ONLY
    first: int
    growth: int = 1
    end: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: int) -> float:
        done, length = cycle(step, self.first, self.growth)
        return _between(self.end, self.start, (1 + math.cos(math.pi * done / length)) / 2)


def cycle(step: float, first: int, growth: int) -> tuple[float, int]:
    """Return how far a step is into its cycle, and the length of that."""
    if growth == 1:
        return step % first, first
    length = first
    while step >= length:
        step, length = step - length, length * growth
    return step, length


@dataclass(frozen=True)
class polynomial(_Path):
    """Go from `start` to `end` at step `total` along a power of the line, then stay there.

    `end + (start - end) * (1 - share) ** power`, `share = (step - warmup) / (total - warmup)`;
    before that, `warmup` steps rise to `start` as `schedules.warmup` does.

    Source: Zhao et al. 2017 (PSPNet), section 5.1 (power 0.9), https://arxiv.org/abs/1612.01105
    Raises: HyperparameterError for a `total` not above `warmup`, another number below 0.

    >>> [polynomial(total=4, power=2)(step) for step in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    _: KW_ONLY
    power: float = 1.0

    def height(self, share: float) -> float:
        """Return the power of what is left of the line."""
        return (1.0 - share) ** self.power


@dataclass(frozen=True)
class exponential(Schedule):
    """Multiply by `gamma` at every step: `gamma ** step`.

    Source: torch.optim.lr_scheduler.ExponentialLR
    Raises: HyperparameterError for a `gamma` below 0.

    >>> [(0.1 * exponential(0.5))(step) for step in range(4)]
    [0.1, 0.05, 0.025, 0.0125]
    """

    gamma: float

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: int) -> float:
        return self.gamma**step


@dataclass(frozen=True)
class step_decay(Schedule):
    """Multiply by `gamma` every `step_size` steps: `gamma ** (step // step_size)`.

    Source: Szegedy et al. 2015, section 6 (4% less every 8 epochs), https://arxiv.org/abs/1409.4842
    Raises: HyperparameterError for a `step_size` that is not whole and above 0, a `gamma` below 0.

    >>> [step_decay(2, gamma=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)


@dataclass(frozen=True)
class multi_step(Schedule):
    """Multiply by `gamma` at each milestone: `gamma ** (number of milestones <= step)`.

    `milestones` are steps, in any order; one given twice decays twice.

    Source: He et al. 2016, section 4.2 (a tenth at 32k and at 48k), https://arxiv.org/abs/1512.03385
    Raises: HyperparameterError for a milestone that is not whole, a milestone or `gamma` below 0.

    >>> [multi_step([1, 3], gamma=0.5)(step) for step in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        keep(self, "milestones", tuple(sorted(_whole_milestones(self))))
        check_numbers(self)

    def __call__(self, step: int) -> float:
        return self.gamma ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class warmup(Schedule):
    """Rise in a straight line over `steps`, then stay at 1: `min(1, (step + 1) / (steps + 1))`.

    The rise begins above 0, so that no update is spent on a value of 0. Multiply it with what
    counts its own steps from the beginning: `0.1 * warmup(5) * multi_step([30, 60])`.

    Source: Goyal et al. 2017, section 2.2 (gradual warmup), https://arxiv.org/abs/1706.02677
    Raises: HyperparameterError for `steps` not whole or below 0.

    >>> [warmup(3)(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    steps: int

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.steps + 1))


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
        keep(self, "schedules", tuple(self.schedules))
        for schedule in self.schedules:
            if not callable(schedule):
                raise HyperparameterError(
                    f"join: a schedule must be a function of the step, got {schedule!r}: give "
                    "one, such as constant(0.1)"
                )
        keep(self, "milestones", tuple(_whole_milestones(self)))
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


def _whole_milestones(schedule: "multi_step | join") -> list[int]:
    what = f"{type(schedule).__name__}: a milestone"
    return [int(checked(what, m, *RULES["milestone"])) for m in schedule.milestones]
